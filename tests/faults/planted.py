"""`python -m tests.faults.planted FOLDER`: trainings into which something is planted, and what became of them."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from components.data.batch import CropBatch
from components.data.loader import CropLoader
from components.data.tables import read_table
from components.objectives import dinov2
from components.training import training_run
from components.training.ema import MovingAverage
from components.training.schedules import Schedules, StepValues
from tests.faults.forks import finish, import_what_it_imported, job_in
from tests.tiny_training import DISTILL, PRETRAIN, make_data

EVERY_STEP = {"seconds": 1e-6, "keep": 3}
NAN_STEPS = range(12, 15)
BOMB = 40
"""Step whose learning rate is a thousand times too high."""


def poisoned(is_bad: Callable[[CropBatch], list[int]]) -> None:
    """Makes the pixels of some images not a number."""

    class Poisoned(CropLoader):
        def iterate(self, start: int, stop: int, *, micros: int = 1) -> Iterator[CropBatch]:
            for batch in super().iterate(start, stop, micros=micros):
                crops = [crop.clone() for crop in batch.crops]
                for image in is_bad(batch):
                    for crop in crops:
                        crop[image :: len(batch)] = torch.nan
                yield replace(batch, crops=crops)

    training_run.CropLoader = Poisoned  # type: ignore[misc]


def poisoned_steps(steps: range) -> Callable[[], None]:
    return lambda: poisoned(lambda batch: [0] if batch.step in steps else [])


def poisoned_image(image_id: str) -> Callable[[], None]:
    return lambda: poisoned(lambda batch: [i for i, one in enumerate(batch.ids) if one == image_id])


def learning_rate_bomb() -> None:
    """One update that throws all weights far away."""
    real = Schedules.at

    def at(self: Schedules, step: int) -> StepValues:
        values = real(self, step)
        return replace(values, lr=1000 * values.lr, last_layer_lr=1000 * values.lr) if step == BOMB else values

    Schedules.at = at  # type: ignore[method-assign]


class NoCentring(nn.Module):
    """Sharpening alone: nothing keeps the teacher from giving every image the same prototype."""

    def forward(self, logits: Tensor, temperature: float) -> Tensor:
        return (logits.float() / temperature).softmax(dim=-1)

    def commit(self) -> None:
        return

    def reject(self) -> None:
        return


def without_centring() -> None:
    dinov2.make_centring = lambda *_, **__: NoCentring()  # type: ignore[assignment, return-value]


def alike_targets() -> None:
    """The student is taught the same of every image of a batch, by a teacher that tells them apart."""
    real = dinov2.dino_loss

    def dino_loss(logits: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
        return real(logits, teacher.mean(dim=1, keepdim=True).expand_as(teacher), temperature=temperature)

    dinov2.dino_loss = dino_loss


def lost_average() -> None:
    """Nothing of the student arrives in its average, while it learns."""

    def update(self: MovingAverage, _momentum: float) -> None:
        with torch.no_grad():
            torch._foreach_zero_(list(self.averages.values()))
        self.publish()

    MovingAverage.update = update  # type: ignore[method-assign]


class After:
    """Asks to stop after so many questions."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


def main(folder: Path) -> None:
    """Runs every case in a folder of its own and leaves the exit codes in found.json."""
    data = folder / "data"
    make_data(data)
    one = read_table(data / "curated" / "ids.parquet")["id"].to_pylist()[0]
    found: dict[str, Any] = {}

    def case(name: str, *, into: str = "", prepare: Callable[[], None] = lambda: None, **options: Any) -> None:
        stop, teacher = options.pop("stop", lambda: False), options.pop("teacher", None)
        given = PRETRAIN if teacher is None else DISTILL
        job = job_in(data, folder / (into or name), {**given, "checkpoint": EVERY_STEP, **options})
        if teacher is not None:
            job = replace(job, name="distill", teacher=folder / teacher / "pretrain")
        found[name] = finish(job, prepare=prepare, stop=stop)
        if len(found) == 1:
            import_what_it_imported(job)

    rows = {"max_skipped": len(NAN_STEPS), "margin": 2}
    case("image", prepare=poisoned_image(one), steps=12, engine={"micro_batch": 4})
    case("row", prepare=poisoned_steps(NAN_STEPS), steps=24, health=rows)
    case("stopped", into="resumed", prepare=poisoned_steps(NAN_STEPS), steps=24, health=rows, stop=After(18))
    case("resumed", prepare=poisoned_steps(NAN_STEPS), steps=24, health=rows)
    case("for ever", prepare=poisoned_steps(range(12, 99)), steps=40, health=rows)
    spike = {"spike": {"window": 20, "factor": 4.0, "rise": 0.3, "patience": 3}, "margin": 5}
    often = {"steps": 56, "log_every": 1, "checkpoint": {**EVERY_STEP, "keep": 12}}
    case("bomb", prepare=learning_rate_bomb, health=spike, **often)
    case("bomb, not watched", prepare=learning_rate_bomb, health={"spike": {"factor": None}}, **often)
    watched = {"checkpoint": {}, "log_every": 5, "health": {"collapse": {"least_steps": 40, "begin": 0.1}}}
    alone = PRETRAIN["objective"] | {"koleo_weight": 0.0, "ibot_weight": 0.0}
    case("collapse", prepare=without_centring, **watched, steps=200, objective=alone)
    # without layer_scale: with it the blocks of so short a training stay out of the features
    gentle = {
        "schedule": {"lr": 0.002, "momentum": 0.98},
        "model": PRETRAIN["model"] | {"layer_scale": None, "drop_path": 0.0},
    }
    case("no collapse", **watched, steps=100, **gentle)
    small = {
        "schedule": gentle["schedule"],
        "model": {**DISTILL["model"], "layer_scale": None, "drop_path": 0.0},
        "teacher": "no collapse",
    }
    hasty = {**small, "schedule": PRETRAIN["schedule"]}
    case("student collapse", prepare=alike_targets, **watched, steps=200, **hasty, objective=alone)
    case("average collapse", prepare=lost_average, **watched, steps=200, **small)
    case("no collapse in distillation", **watched, steps=100, **small)
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
