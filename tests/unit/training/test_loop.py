"""The loop with everything around it faked, on a process group of one."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from components.data.batch import CropBatch
from components.errors import UserError
from components.objectives import Losses, StepState
from components.parameters import validate
from components.training.health import Health
from components.training.layouts import Shard
from components.training.loop import Preempted, TrainingLoop
from components.training.pretrain import PretrainParams
from components.training.schedules import Schedules, StepValues
from components.training.skipped_batches import SkippedBatches
from components.training.standing import Standing
from tests.tiny_training import PRETRAIN


@pytest.fixture(scope="module", autouse=True)
def group_of_one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    store = dist.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Events(list[str]):
    """What happened, in order."""


class FakeObjective(nn.Module):
    def __init__(self, events: Events) -> None:
        super().__init__()
        self.events = events

    def commit(self) -> None:
        self.events.append("commit")

    def reject(self) -> None:
        self.events.append("reject")


class FakeEngine:
    micro_batches = 2

    class layout:
        replicated = False

    def __init__(self, events: Events, bad_steps: set[int], losses: dict[int, float]) -> None:
        self.losses = losses
        self.module = FakeObjective(events)
        self.events = events
        self.bad_steps = bad_steps
        self.shards = [Shard("student.backbone.w", (2,), 0, torch.zeros(2), {})]
        self.measured: list[int] = []

    def forward(self, batch: CropBatch, state: StepState) -> Losses:
        assert batch.step == state.step
        value = torch.tensor(self.losses.get(state.step, float(state.step)))
        parts = {"loss": value}
        if state.measure:
            parts["rank"] = value + 100
            self.measured.append(state.step)
        self.step_number = state.step
        return Losses(value, parts)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        self.events.append("backward, last" if last else "backward")

    def gradients(self) -> list[Tensor]:
        return [torch.tensor([torch.nan if self.step_number in self.bad_steps else 3.0, 4.0])]

    def step(self, values: StepValues) -> None:
        self.events.append("step")

    def skip(self) -> None:
        self.events.append("skip")


class FakeAverage:
    def __init__(self, events: Events) -> None:
        self.events = events

    def update(self, momentum: float) -> None:
        self.events.append("average")


class FakeState:
    def __init__(self, events: Events) -> None:
        self.events = events
        self.saved: list[int] = []
        self.kept: dict[Path, str] = {}

    def save(self, step: int, values: dict[str, Any]) -> None:
        self.saved.append(step)
        self.values = values
        self.kept[Path(f"{step:03d}")] = json.dumps({**values, "step": step})

    def newest_before(self, step: int) -> Path | None:
        return max((path for path in self.kept if int(path.name) <= step), default=None)

    def load(self, folder: Path) -> dict[str, Any]:
        self.events.append(f"load {int(folder.name)}")
        found: dict[str, Any] = json.loads(self.kept[folder])
        return found

    def start_at(self, step: int) -> None:
        self.kept = {path: values for path, values in self.kept.items() if int(path.name) <= step}


class FakeLoader:
    waited_s = 0.0

    def iterate(self, start: int, stop: int, *, micros: int = 1) -> Iterator[CropBatch]:
        for step in range(start, stop):
            for micro in range(micros):
                yield CropBatch([], torch.empty(0), (f"image-{step}-{micro}",), torch.empty(0), step)


class Fixture:
    def __init__(
        self,
        *,
        bad_steps: set[int] | None = None,
        losses: dict[int, float] | None = None,
        stop_at: int | None = None,
        evidence: SkippedBatches | None = None,
        **changes: Any,
    ) -> None:
        self.params = validate(PretrainParams, {**PRETRAIN, **changes}, where="test")
        self.events = Events()
        self.engine = FakeEngine(self.events, bad_steps or set(), losses or {})
        self.state = FakeState(self.events)
        self.standing = Standing(step=0, health=Health(self.params.health))
        self.loop = TrainingLoop(
            self.engine,  # type: ignore[arg-type]
            FakeAverage(self.events),  # type: ignore[arg-type]
            self.state,  # type: ignore[arg-type]
            self.params,
            Schedules(self.params.schedule, self.params.steps or 0, self.params.batch_size),
            recorded={"code": "abc"},
            stop=lambda: stop_at is not None and self.standing.step >= stop_at,
            run=None,
            evidence=evidence,
            name="test",
        )

    def train(self) -> None:
        self.loop.train(FakeLoader(), self.standing)


def test_a_step_is_all_micro_batches_then_weights_then_average_then_centres() -> None:
    made = Fixture(steps=1)
    made.train()
    assert made.events == ["backward", "backward, last", "step", "average", "commit"]


EVERY_STEP = {"seconds": 1e-9}


def test_F5_a_step_that_is_not_finite_touches_nothing_and_its_images_are_recorded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    made = Fixture(steps=3, bad_steps={1}, evidence=SkippedBatches(tmp_path / "file"))
    made.train()
    assert made.events[5:9] == ["backward", "backward, last", "skip", "reject"]
    assert made.events.count("step") == made.events.count("average") == made.events.count("commit") == 2
    assert "image-1-0, image-1-1" in caplog.text
    assert (made.standing.step, made.standing.health.skipped) == (3, 1)
    assert made.state.values["health"]["skipped"] == 1
    (line,) = [json.loads(one) for one in (tmp_path / "file").read_text().splitlines()]
    assert (line["step"], line["reason"], line["gradient_norm"]) == (1, "not finite", {"gradient_norm.backbone": "nan"})
    assert [(part["process"], part["ids"]) for part in line["parts"]] == [(0, ["image-1-0"]), (0, ["image-1-1"])]


def test_F5_several_in_a_row_go_back_to_the_checkpoint_and_pass_over_the_window() -> None:
    made = Fixture(
        steps=9, bad_steps={4, 5, 6}, health={"max_skipped": 3, "margin": 1}, checkpoint=EVERY_STEP, log_every=3
    )
    made.train()
    assert made.events.count("load 3") == 1, "from before the margin, though there was a checkpoint of step 4"
    assert made.events.count("skip") == 3
    assert made.state.saved == [1, 2, 3, 4, 8, 9], "none while something is wrong, none of what is passed over"
    assert made.standing.health.passed_over == [(3, 7)]
    assert (made.standing.step, made.standing.trained, made.standing.health.skipped) == (9, 5, 0)
    assert [row.get("loss") for row in made.standing.history.rows] == [1.0, None, 7.5]


def test_F5_a_second_failure_gives_up_and_says_where_the_images_are() -> None:
    made = Fixture(
        steps=20, bad_steps={4, 5, *range(8, 20)}, health={"max_skipped": 2, "margin": 0}, checkpoint=EVERY_STEP
    )
    with pytest.raises(UserError, match="in steps 8 to 9, 2 in a row, also after 1 roll-back") as caught:
        made.train()
    assert "beside its checkpoints" in caught.value.remedy
    assert made.events.count("load 4") == 1


def test_F5_without_a_checkpoint_there_is_no_way_back() -> None:
    made = Fixture(steps=9, bad_steps=set(range(2, 9)), health={"max_skipped": 3})
    with pytest.raises(UserError, match="in steps 2 to 4, 3 in a row, and there is no way back"):
        made.train()
    assert made.events.count("step") == 2


def test_a_resumed_run_passes_over_the_same_steps() -> None:
    health = {"max_skipped": 2, "margin": 0}
    made = Fixture(steps=12, bad_steps={4, 5}, health=health, checkpoint=EVERY_STEP, stop_at=8)
    with pytest.raises(Preempted):
        made.train()
    again = Fixture(steps=12, bad_steps={4, 5}, health=health)
    again.standing.restore({**made.state.values, "step": made.standing.step})
    again.train()
    straight = Fixture(steps=12, bad_steps={4, 5}, health=health, checkpoint=EVERY_STEP)
    straight.train()
    assert json.dumps(again.standing.as_json()) == json.dumps(straight.standing.as_json())


SPIKE = {"spike": {"window": 4, "patience": 2}, "margin": 1}
LEVEL = {step: 1.0 + 0.01 * (step % 2) for step in range(20)}


def test_a_spike_of_the_loss_goes_back_and_passes_over_its_window(tmp_path: Path) -> None:
    evidence = SkippedBatches(tmp_path / "file")
    made = Fixture(steps=10, losses=LEVEL | {6: 9.0, 7: 9.0}, health=SPIKE, checkpoint=EVERY_STEP, evidence=evidence)
    made.train()
    assert made.events.count("load 5") == 1
    assert made.standing.health.passed_over == [(5, 8)]
    assert [json.loads(one)["step"] for one in evidence.path.read_text().splitlines()] == [6, 7]


def test_one_outlier_is_no_spike() -> None:
    made = Fixture(steps=10, losses=LEVEL | {6: 9.0}, health=SPIKE, checkpoint=EVERY_STEP)
    made.train()
    assert made.standing.health.rollbacks == 0


def test_a_loss_that_stays_high_after_going_back_is_the_new_level_and_not_the_end() -> None:
    made = Fixture(steps=20, losses=LEVEL | dict.fromkeys(range(6, 20), 9.0), health=SPIKE, checkpoint=EVERY_STEP)
    made.train()
    assert (made.standing.step, made.standing.health.rollbacks) == (20, 1)


def test_rows_are_averages_of_windows_and_costly_measures_are_taken_once_in_each() -> None:
    made = Fixture(steps=5, log_every=2)
    made.train()
    assert [(row["step"], row["loss"], row["rank"]) for row in made.standing.history.rows] == [
        (2, 0.5, 101.0),
        (4, 2.5, 103.0),
        (5, 4.0, 104.0),
    ]
    assert made.engine.measured == [1, 3, 4]
    assert made.standing.history.rows[0]["gradient_norm.backbone"] == pytest.approx(5.0)


def test_a_checkpoint_is_written_when_time_is_up_and_at_the_end() -> None:
    seldom, often = Fixture(steps=3), Fixture(steps=3, checkpoint={"seconds": 1e-9})
    seldom.train()
    often.train()
    assert seldom.state.saved == [3]
    assert often.state.saved == [1, 2, 3]
    assert seldom.state.values["code"] == "abc"


def test_a_request_to_stop_ends_training_after_the_running_step_with_a_checkpoint() -> None:
    made = Fixture(steps=9, stop_at=3)
    with pytest.raises(Preempted):
        made.train()
    assert made.state.saved == [made.standing.step] == [4]
    assert made.events.count("step") == 4


def test_a_request_to_stop_in_the_last_step_lets_training_end() -> None:
    made = Fixture(steps=3, stop_at=2)
    made.train()
    assert made.state.saved == [3]
