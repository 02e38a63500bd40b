from collections.abc import Generator
from typing import Any

import pytest
import torch

from components.data.batch import CropBatch
from components.data.views import ViewParams
from components.errors import UserError
from components.parameters import validate
from components.training.phases import HighResolutionParams, Phase, PhasedLoader
from components.training.pretrain import PretrainParams
from components.training.recipe import run_key
from tests.tiny_training import PRETRAIN


def params(**high: Any) -> PretrainParams:
    return validate(PretrainParams, {**PRETRAIN, "high_resolution": high or None}, where="pretrain")


class NamedLoader:
    """Batches that carry nothing but their step; each takes a second."""

    def __init__(self, views: ViewParams, log: list[str]) -> None:
        self.waited_s = 0.0
        self.name = str(views.global_size)
        self.log = log

    def iterate(self, start: int, stop: int, *, micros: int = 1) -> Generator[CropBatch, None, None]:
        for step in range(start, stop):
            for _ in range(micros):
                self.waited_s += 1.0
                yield CropBatch([], torch.empty(0), (self.name,), torch.empty(0), step)

    def close(self) -> None:
        self.log.append(f"closed {self.name}")


@pytest.mark.parametrize(("start", "expected"), [(0, 3), (2, 1), (3, 0), (4, 0)])
def test_each_step_gets_the_crops_of_its_phase_from_wherever_it_starts(start: int, expected: int) -> None:
    log: list[str] = []
    phases = [Phase(0, 3, ViewParams(global_size=16)), Phase(3, 5, ViewParams(global_size=24))]
    loader = PhasedLoader(phases, lambda views: NamedLoader(views, log))
    found = [(batch.step, batch.ids[0]) for batch in loader.iterate(start, 5, micros=2)]
    steps = [step for step in range(start, 5) for _ in range(2)]
    assert found == [(step, "16" if step < 3 else "24") for step in steps]
    assert loader.waited_s == len(steps)
    assert log == (["closed 16"] if expected else []) + ["closed 24"]


def test_the_last_steps_have_larger_crops_and_the_others_as_before() -> None:
    made = params(steps=3, global_size=24, local_size=12)
    first, last = made.phases(8)
    assert (first.start, first.stop, first.views) == (0, 5, made.views)
    assert (last.start, last.stop, last.views.global_size, last.views.local_size) == (5, 8, 24, 12)
    assert last.views.model_copy(update={"global_size": 16, "local_size": 8}) == made.views
    assert [phase.start for phase in params(share=0.25, global_size=24).phases(8)] == [0, 6]


def test_without_it_there_is_one_phase_and_the_key_of_the_run_is_what_it_was() -> None:
    plain = params()
    assert plain.phases(8) == [Phase(0, 8, plain.views)]
    assert "high_resolution" not in plain.mathematics()
    assert run_key("pretrain", plain, ["a"]) != run_key("pretrain", params(steps=3, global_size=24), ["a"])


def test_the_schedule_goes_on_or_begins_anew_at_the_switch() -> None:
    on, anew = params(steps=3, global_size=24), params(steps=3, global_size=24, schedule={"lr": 0.7, "warmup": 0.0})
    plain = params().schedules(8)
    assert [on.schedules(8).at(step) for step in range(8)] == [plain.at(step) for step in range(8)]
    values = anew.schedules(8)
    assert values.steps == 8
    assert [values.at(step) for step in range(5)] == [params().schedules(5).at(step) for step in range(5)]
    assert values.at(5).lr > plain.at(0).lr
    assert values.at(7).lr == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("high", "message"),
    [
        ({"global_size": 24}, "either share or steps"),
        ({"steps": 3, "share": 0.5, "global_size": 24}, "either share or steps"),
        ({"steps": 3, "global_size": 25}, r"patch_size 4 must divide high_resolution.global_size 25"),
        ({"steps": 3, "global_size": 24, "local_size": 10}, r"must divide high_resolution.local_size 10"),
    ],
)
def test_F16_an_impossible_phase_is_refused_by_its_key(high: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        params(**high)


def test_F16_a_phase_that_leaves_nothing_before_it_is_refused() -> None:
    with pytest.raises(UserError, match="high_resolution takes 8 of 8 steps"):
        params(steps=8, global_size=24).phases(8)


def test_views_that_are_not_named_stay() -> None:
    before = ViewParams(global_size=16, local_size=8, local_crops=2)
    assert HighResolutionParams(share=0.1, global_size=32).views(before) == before.model_copy(
        update={"global_size": 32}
    )
