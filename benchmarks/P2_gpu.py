"""P2: a DINOv2 step of ViT-L/14 and ViT-L/16 in bf16 on one GPU, against its datasheet and its own matrix products.

`python -m benchmarks.P2_gpu` on a machine with one Hopper GPU: the published crops and heads, stochastic depth off, and
what each part of the fast path buys. `--tiny` for a trial of a small model, on a CPU too.
"""

import gc
import statistics
import sys
from typing import Any

import torch

from benchmarks.report import report
from benchmarks.training_step import DEVICE, TrainingStep, clock, matmul_rate, params_of
from components.models.presets import vit_config
from components.training.pretrain import PretrainParams

DATASHEET = 989e12
"""bf16 FLOP/s of an H100 or H200 SXM, dense."""
BOUND = 0.45
REPEATS = 7
TINY = "--tiny" in sys.argv
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tiled heads": {"tile_rows": 512},
    "compiled": {"compile": True},
    "compiled, tiled heads": {"tile_rows": 512, "compile": True},
    "activation checkpointing": {"activation_checkpointing": True},
}
MODELS: dict[str, dict[str, Any]] = {
    "ViT-L/14": {"patch": 14, "local": 98, "batch": 32, "prototypes": 131072, "bottlenecks": (384, 256)},
    "ViT-L/16": {"patch": 16, "local": 96, "batch": 64, "prototypes": 65536, "bottlenecks": (256, None)},
}


def params(name: str, way: dict[str, Any]) -> PretrainParams:
    """The published step of a model, computed in some way."""
    given = MODELS[name]
    model = vit_config("L", patch_size=given["patch"], drop_path=0.0).model_dump()
    hidden, prototypes = 2048, given["prototypes"]
    batch, local = given["batch"], given["local"]
    if TINY:
        model |= {"image_size": 4 * given["patch"], "width": 32, "depth": 2, "heads": 2}
        hidden, prototypes, batch, local = 32, 64, 4, 2 * given["patch"]
    heads = [
        None if bottleneck is None else {"hidden": hidden, "bottleneck": bottleneck, "prototypes": prototypes}
        for bottleneck in given["bottlenecks"]
    ]
    engine = {"precision": "bf16", **{key: value for key, value in way.items() if key != "tile_rows"}}
    objective = {
        "dino_head": heads[0],
        "ibot_head": heads[1],
        "centring": "softmax" if heads[1] is None else "sinkhorn",
        "tile_rows": way.get("tile_rows"),
    }
    return params_of(model, batch=batch, local_size=local, heads=objective, engine=engine)


def measure(name: str, way: str) -> dict[str, Any]:
    """Seconds, FLOPs, memory and images a second of one way, or why there are none."""
    try:
        step = TrainingStep(params(name, WAYS[way]))
        for _ in range(3):
            step()
        if DEVICE == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = statistics.median(clock(step) for _ in range(REPEATS))
    except torch.OutOfMemoryError:
        return {"model": name, "way": way, "out_of_memory": True}
    flops = step.flops()
    return {
        "model": name,
        "way": way,
        "seconds": round(seconds, 5),
        "images_a_second": round(step.params.batch_size / seconds, 2),
        "tflops_a_second": round(flops / seconds / 1e12, 3),
        "share_of_datasheet": float(f"{flops / seconds / DATASHEET:.4g}"),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if DEVICE == "cuda" else None,
    }


def main() -> None:
    """Measures and reports."""
    if DEVICE == "cpu" and not TINY:
        raise SystemExit("no GPU here: run it on one, or try it with --tiny")
    ways = [way for way in WAYS if DEVICE == "cuda" or not WAYS[way].get("compile")]
    side = 256 if TINY else 8192
    rate = matmul_rate([(side, side, side)], torch.bfloat16, repeats=10)
    found = []
    for name in MODELS:
        for way in ways:
            found.append(measure(name, way))
            gc.collect()
            torch.cuda.empty_cache()
            print(found[-1], flush=True)
    best = {
        name: max((one.get("share_of_datasheet", 0.0) for one in found if one["model"] == name), default=0.0)
        for name in MODELS
    }
    report(
        "P2",
        "share of the datasheet's bf16 rate in a DINOv2 step of ViT-L, the lower of L/14 and L/16",
        ratio=min(best.values()),
        bound=f">= {BOUND}",
        holds=min(best.values()) >= BOUND,
        figures={
            "best": best,
            "matmul_tflops_a_second": round(rate / 1e12, 2),
            "share_of_matmul": {name: round(share * DATASHEET / rate, 4) for name, share in best.items()},
            "repeats": REPEATS,
            "steps": found,
        },
        keep=not TINY,
    )


if __name__ == "__main__":
    main()
