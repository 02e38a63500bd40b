"""P4: how much of the time that stochastic depth need not spend it does not spend.

`python -m benchmarks.P4_drop_path`: ViT-L/14 in bf16 on a GPU, ViT-S/14 in fp32 on a CPU; `--tiny` for a trial.
"""

import statistics
import sys

import torch

from benchmarks.report import report
from benchmarks.training_step import DEVICE, TrainingStep, clock, params_of
from components.models.presets import vit_config
from components.training.pretrain import PretrainParams

BOUND = 0.9
RATE = 0.4
REPEATS = 7
TINY = "--tiny" in sys.argv


def params(rate: float) -> PretrainParams:
    """The published crops."""
    on_gpu = DEVICE == "cuda"
    model = vit_config("L" if on_gpu else "S", drop_path=rate).model_dump()
    head = {"hidden": 2048, "bottleneck": 256, "prototypes": 65536 if on_gpu else 4096}
    if TINY:
        model |= {"image_size": 56, "width": 32, "depth": 2, "heads": 2}
        head = {"hidden": 32, "bottleneck": 16, "prototypes": 64}
    return params_of(
        model,
        batch=32 if on_gpu else 8,
        local_size=28 if TINY else 98,
        heads={"dino_head": head, "ibot_head": head},
        engine={"precision": "bf16" if on_gpu else "fp32"},
    )


def main() -> None:
    """Measures and reports."""
    if DEVICE == "cpu":
        torch.set_num_threads(2)
    steps = {rate: TrainingStep(params(rate)) for rate in (0.0, RATE)}
    for step in steps.values():
        step()
        step()
    times: dict[float, list[float]] = {rate: [] for rate in steps}
    for _ in range(REPEATS):
        for rate, step in steps.items():
            times[rate].append(clock(step))
    predicted = steps[0.0].flops() / steps[RATE].flops()
    found = statistics.median(full / less for full, less in zip(times[0.0], times[RATE], strict=True))
    ratio = found / predicted
    report(
        "P4",
        f"speed-up by stochastic depth {RATE} over the one that FLOPs predict",
        ratio=ratio,
        bound=f">= {BOUND}",
        holds=ratio >= BOUND,
        figures={
            "predicted": round(predicted, 4),
            "measured": round(found, 4),
            "seconds": {str(rate): round(statistics.median(taken), 4) for rate, taken in times.items()},
            "model": params(0.0).model.name,
            "device": DEVICE,
            "repeats": REPEATS,
        },
        name="P4" if DEVICE == "cpu" else "P4_gpu",
        keep=not TINY,
    )


if __name__ == "__main__":
    main()
