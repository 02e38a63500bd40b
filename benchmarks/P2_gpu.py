"""P2: a DINOv2 step of ViT-L/14 and ViT-L/16 in bf16 on one GPU, against its datasheet and its own matrix products.

`python -m benchmarks.P2_gpu` on a machine with one Hopper GPU: the published crops and heads, stochastic depth off, and
what each part of the fast path buys, each in a process of its own. `--tiny` for a trial of a small model, on a CPU too;
`--minutes 8` leaves out what has not begun by then.
"""

import json
import statistics
import subprocess
import sys
import time
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
WAY_SECONDS = 240
"""After so many a way has failed: it is started, compiled and measured in one."""
WAYS: dict[str, dict[str, Any]] = {
    "compiled": {"compile": True},
    "plain": {},
    "compiled, tiled heads": {"tile_rows": 512, "compile": True},
    "tiled heads": {"tile_rows": 512},
    "activation checkpointing": {"activation_checkpointing": True},
}
"""In the order of what matters most, should the time run out."""
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
    """Seconds, FLOPs, memory and images a second of one way, or that there is no room for it."""
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


def measured_apart(name: str, way: str) -> dict[str, Any]:
    """`measure` in a process of its own: whatever becomes of it, the others go on."""
    command = [sys.executable, "-m", "benchmarks.P2_gpu", "--way", name, way, *(["--tiny"] if TINY else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=WAY_SECONDS)
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return {"model": name, "way": way, "failed": f"not done in {WAY_SECONDS} s"}
    except subprocess.CalledProcessError as error:
        print(error.stderr[-3000:], file=sys.stderr)
        return {"model": name, "way": way, "failed": (error.stderr.splitlines() or [str(error)])[-1][-300:]}


def deadline() -> float:
    """Until when a way may begin, on the monotonic clock."""
    return time.monotonic() + 60 * float(sys.argv[sys.argv.index("--minutes") + 1]) if "--minutes" in sys.argv else 1e18


def main() -> None:
    """Measures and reports."""
    if "--way" in sys.argv:
        print(json.dumps(measure(*sys.argv[sys.argv.index("--way") + 1 :][:2])))
        return
    if DEVICE == "cpu" and not TINY:
        raise SystemExit("no GPU here: run it on one, or try it with --tiny")
    until = deadline()
    ways = [way for way in WAYS if DEVICE == "cuda" or not WAYS[way].get("compile")][: 1 if TINY else None]
    side = 256 if TINY else 8192
    rate = matmul_rate([(side, side, side)], torch.bfloat16, repeats=10)
    found = []
    for way in ways:
        for name in MODELS:
            late = {"model": name, "way": way, "failed": "no time left"}
            found.append(measured_apart(name, way) if time.monotonic() < until else late)
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
