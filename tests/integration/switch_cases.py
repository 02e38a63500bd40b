"""Pretraining with a last phase on larger crops, straight and interrupted; what `run_ranks` runs."""

import sys
from pathlib import Path
from typing import Any

import torch

from components.models.backbone import load_backbone
from components.models.heads import load_heads
from components.training.job import Job
from components.training.loop import Preempted
from components.training.training_run import train
from tests.tiny_training import PRETRAIN

SWITCH = 5
HIGH: dict[str, Any] = {"steps": 8 - SWITCH, "global_size": 24, "local_size": 12}
INTERRUPTED = {"before": SWITCH - 1, "at": SWITCH, "after": SWITCH + 1}


def pretrain(folder: Path, name: str, *, stop_after: int | None = None, high: dict[str, Any] | None = HIGH) -> None:
    """Trains into FOLDER/NAME, interrupted once after so many steps."""
    params = {**PRETRAIN, "high_resolution": high, "log_every": 1}
    job = Job(
        name="pretrain", params=params, locations=folder / "manifest" / "locations.parquet", shards=folder / "shards",
        curated=folder / "curated", teacher=None, artifact=folder / name, history=folder / f"{name}.csv",
        checkpoints=folder / f"checkpoints-{name}", lineage={}, code="", device="cpu", processes=1, threads=1,
        restarts=0, collective_seconds=600.0, mirror=None, s3_endpoint=None, run_key=None, stage_pid=0,
    )  # fmt: skip
    if stop_after is not None:
        asked = iter(range(1, 100))
        try:
            train(job, lambda: next(asked) == stop_after)
        except Preempted:
            pass
        else:
            raise AssertionError("training was not interrupted")
    train(job, lambda: False)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the teacher and its heads."""
    found = dict(load_backbone(folder).model.state_dict())
    for head, module in load_heads(folder / "heads.safetensors").items():
        found |= {f"{head}.{name}": value for name, value in module.state_dict().items()}
    return found


def main() -> None:
    """Runs every case."""
    folder = Path(sys.argv[1])
    pretrain(folder, "straight")
    for name, steps in INTERRUPTED.items():
        pretrain(folder, name, stop_after=steps)
    pretrain(folder, "never", high=None)
    pretrain(folder, "own schedule", high={**HIGH, "schedule": {**PRETRAIN["schedule"], "lr": 0.5, "warmup": 0.0}})
    names = ("straight", *INTERRUPTED, "never", "own schedule")
    torch.save({name: weights(folder / name) for name in names}, folder / "results.pt")


if __name__ == "__main__":
    main()
