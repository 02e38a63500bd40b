"""What each part of the fast path buys in a step of ViT-S/14 on a CPU: time, and memory at its peak.

Not one of the numbered targets: `python -m benchmarks.fast_path`; `--tiny` for a trial.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import report
from benchmarks.training_step import TrainingStep, clock, params_of
from components.models.presets import vit_config
from components.training.pretrain import PretrainParams

TINY = "--tiny" in sys.argv
REPEATS = 5
BATCH = 4
WAYS: dict[str, dict[str, Any]] = {
    "plain, fp32": {},
    "heads in tiles of 64 rows": {"tile_rows": 64},
    "activation checkpointing": {"activation_checkpointing": True},
    "compiled blocks": {"compile": True},
    "micro-batches of 2": {"micro_batch": 2},
    "stochastic depth 0.4": {"drop_path": 0.4},
    "bf16": {"precision": "bf16"},
}


def params(way: str) -> PretrainParams:
    """A step with heads of 65,536 prototypes."""
    changes = dict(WAYS[way])
    model = vit_config("S", drop_path=changes.pop("drop_path", 0.0)).model_dump()
    head = {"hidden": 2048, "bottleneck": 256, "prototypes": 65536}
    if TINY:
        model |= {"image_size": 56, "width": 32, "depth": 2, "heads": 2}
        head = {"hidden": 32, "bottleneck": 16, "prototypes": 64}
    heads = {"dino_head": head, "tile_rows": changes.pop("tile_rows", None), "koleo_group": 2, "drop_path_group": 2}
    return params_of(model, batch=BATCH, local_size=28 if TINY else 98, heads=heads, engine=changes)


def measure(way: str) -> dict[str, float]:
    """Median seconds, and the most memory of this process, which does nothing else."""
    torch.set_num_threads(2)
    step = TrainingStep(params(way))
    step()
    Path("/proc/self/clear_refs").write_text("5")
    seconds = [clock(step) for _ in range(REPEATS + 1)][1:]
    [line] = [one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM:")]
    return {"seconds": round(statistics.median(seconds), 4), "peak_mib": round(int(line.split()[1]) / 1024, 1)}


def main() -> None:
    """Measures each way in a process of its own and reports."""
    if "--way" in sys.argv:
        print(json.dumps(measure(sys.argv[sys.argv.index("--way") + 1])))
        return
    found = {}
    for way in WAYS:
        command = [sys.executable, "-m", "benchmarks.fast_path", "--way", way, *(["--tiny"] if TINY else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])
        print(way, found[way], flush=True)
    plain = found["plain, fp32"]
    report(
        "fast path",
        "seconds of a step of ViT-S/14 with heads in tiles over those with whole logits, one process after the other",
        ratio=found["heads in tiles of 64 rows"]["seconds"] / plain["seconds"],
        bound="none",
        holds=True,
        figures={
            "ways": {
                way: {
                    **one,
                    "time_over_plain": round(one["seconds"] / plain["seconds"], 3),
                    "memory_over_plain": round(one["peak_mib"] / plain["peak_mib"], 3),
                }
                for way, one in found.items()
            },
            "batch": BATCH,
            "repeats": REPEATS,
        },
        name="fast_path",
        keep=not TINY,
    )


if __name__ == "__main__":
    main()
