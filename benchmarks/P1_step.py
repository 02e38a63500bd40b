"""P1: a DINOv2 step of ViT-S/14 on a CPU, against the machine's own matrix products; and seconds a step.

`python -m benchmarks.P1_step`; with `--tiny`, a small model to see that it runs.
"""

import gc
import statistics
import sys
from typing import Any

import torch

from benchmarks.report import report
from benchmarks.training_step import TrainingStep, clock, matmul_rate, params_of
from components.models.presets import vit_config
from components.training.pretrain import PretrainParams

BOUNDS = {"fp32": 0.80, "bf16": 0.65}
REPEATS = 5
THREADS = 2
HEAD = {"hidden": 2048, "bottleneck": 256, "prototypes": 4096}
TINY = "--tiny" in sys.argv


def params(precision: str, batch: int, drop_path: float) -> PretrainParams:
    """ViT-S/14, 2 x 224 + 8 x 98, separate heads of 4,096 prototypes."""
    model = vit_config("S", drop_path=drop_path).model_dump()
    head = HEAD
    if TINY:
        model |= {"image_size": 56, "width": 32, "depth": 2, "heads": 2}
        head = {"hidden": 32, "bottleneck": 16, "prototypes": 64}
    heads = {"dino_head": head, "ibot_head": head}
    return params_of(
        model, batch=batch, local_size=28 if TINY else 98, heads=heads, engine={"precision": precision}
    )  # fmt: skip


def measure(precision: str, batch: int, drop_path: float) -> dict[str, Any]:
    """Seconds, FLOPs and share of the machine's rate, in turn with the products it is held against."""
    made = params(precision, batch, drop_path)
    step = TrainingStep(made)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    patch = made.model.patch_size
    tokens = batch * (
        2 * (1 + (made.views.global_size // patch) ** 2) + 8 * (1 + (made.views.local_size // patch) ** 2)
    )
    side = 256 if TINY else 2048
    shapes = [(side, side, side), (tokens, made.model.width, 4 * made.model.width)]
    step()
    step()
    seconds, rates = [], []
    for _ in range(REPEATS):
        rates.append(matmul_rate(shapes, dtype))
        seconds.append(clock(step))
    flops = step.flops()
    shares = [flops / taken / rate for taken, rate in zip(seconds, rates, strict=True)]
    return {
        "precision": precision,
        "batch": batch,
        "drop_path": drop_path,
        "seconds": round(statistics.median(seconds), 4),
        "gflops_of_a_step": round(flops / 1e9, 1),
        "matmul_gflops_a_second": round(statistics.median(rates) / 1e9, 1),
        "share": round(statistics.median(shares), 4),
    }


def main() -> None:
    """Measures and reports."""
    torch.set_num_threads(THREADS)
    steps = []
    for precision in BOUNDS:
        for batch in (8, 2):
            for drop_path in (0.0, 0.3):
                steps.append(measure(precision, batch, drop_path))
                gc.collect()
                print(steps[-1], flush=True)
    shares = {one["precision"]: one["share"] for one in steps if one["batch"] == 8 and one["drop_path"] == 0}
    report(
        "P1",
        "share of the machine's matrix-product rate in a DINOv2 step of ViT-S/14, batch 8, fp32",
        ratio=shares["fp32"],
        bound=f">= {BOUNDS['fp32']} in fp32, >= {BOUNDS['bf16']} in bf16",
        holds=all(shares[name] >= bound for name, bound in BOUNDS.items()),
        figures={
            "shares": shares,
            "threads": THREADS,
            "repeats": REPEATS,
            "prototypes": HEAD["prototypes"],
            "steps": steps,
        },
        keep=not TINY,
    )


if __name__ == "__main__":
    main()
