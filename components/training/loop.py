"""The training loop: batches in, averaged weights out. A step is applied whole or not at all."""

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
import torch.distributed as dist

from components.data.batch import CropBatch
from components.objectives import Losses, Objective, StepState
from components.tracking import Run, progress, system_metrics
from components.training.clipping import GradientNorms
from components.training.ema import MovingAverage
from components.training.engine import Engine
from components.training.health import Health
from components.training.history import History
from components.training.recipe import TrainingParams
from components.training.schedules import Schedule, StepValues
from components.training.training_state import TrainingState

_log = logging.getLogger(__name__)
TELL_SECONDS = 60.0


class Preempted(Exception):
    """Training was asked to stop; a checkpoint of where it stands has been written."""


class Loader(Protocol):
    """Gives the batches of each step."""

    waited_s: float
    """Seconds spent waiting for batches."""

    def iterate(self, start: int, stop: int, *, micros: int = 1) -> Iterator[CropBatch]:
        """Batches of steps `start` to before `stop`, each step in `micros` parts."""
        ...


class Report(NamedTuple):
    """What all processes know of a step after one reduction."""

    parts: dict[str, float]
    norms: torch.Tensor
    finite: bool
    stop: bool
    save: bool


@dataclass
class Standing:
    """How far a run is; all of it goes into checkpoints.

    Attributes:
        step: steps done, skipped ones included.
        history: metrics so far.
        health: skipped steps.
    """

    step: int
    health: Health
    history: History = field(default_factory=History)


class TrainingLoop:
    """Trains an objective.

    Args:
        engine: the objective under DeepSpeed.
        average: the averaged weights.
        state: writes checkpoints.
        params: of the run.
        schedules: learning rate and its companions.
        recorded: JSON values that every checkpoint carries.
        stop: whether to stop with a checkpoint after the step that runs.
        run: where process 0 logs; None on the others.
        name: shown in progress.
    """

    def __init__(
        self,
        engine: Engine,
        average: MovingAverage,
        state: TrainingState,
        params: TrainingParams,
        schedules: Schedule,
        *,
        recorded: dict[str, Any],
        stop: Callable[[], bool],
        run: Run | None,
        name: str,
    ) -> None:
        self._engine = engine
        self._average = average
        self._state = state
        self._params = params
        self._schedules = schedules
        self._recorded = recorded
        self._stop = stop
        self._run = run
        self._name = name
        self._norms = GradientNorms([shard.name for shard in engine.shards], params.clip)
        self._saved_at = self._told_at = time.monotonic()

    def train(self, loader: Loader, standing: Standing) -> None:
        """Trains from where the run stands to its end and writes a last checkpoint.

        Raises:
            Preempted: after `stop` and a checkpoint.
            UserError: when training is given up, or a disk is full.
        """
        micros, total = self._engine.micro_batches, self._schedules.steps
        batches = loader.iterate(standing.step, total, micros=micros)
        window = _Window(loader)
        for step in self._shown(range(standing.step, total)):
            report = self._step(step, batches, standing)
            window.images += self._params.batch_size
            if (step + 1) % self._params.log_every == 0 or step + 1 == total:
                self._log_row(standing, self._schedules.at(step), window)
                window = _Window(loader)
            if report.stop or report.save or step + 1 == total:
                self.save(standing)
            if report.stop and step + 1 < total:
                raise Preempted

    def save(self, standing: Standing) -> None:
        """Writes a checkpoint. A collective."""
        began = time.monotonic()
        values = {
            **self._recorded,
            "history": standing.history.as_json(),
            "skipped": standing.health.skipped,
            "skipped_in_a_row": standing.health.in_a_row,
        }
        self._state.save(standing.step, values)
        self._saved_at = time.monotonic()
        if self._run is not None:
            self._run.log_metrics({"checkpoint_seconds": self._saved_at - began}, step=standing.step)

    def _step(self, step: int, batches: Iterator[CropBatch], standing: Standing) -> Report:
        values = self._schedules.at(step)
        objective = cast(Objective, self._engine.module)
        measure = (step + 1) % self._params.log_every == 0 or step + 1 == self._schedules.steps
        state = StepState(
            step=step, seed=self._params.seed, teacher_temperature=values.teacher_temperature, measure=measure
        )
        parts: list[dict[str, torch.Tensor]] = []
        ids: list[str] = []
        for micro in range(self._engine.micro_batches):
            batch = next(batches)
            losses: Losses = self._engine.forward(batch=batch, state=state)
            self._engine.backward(losses.loss, last=micro + 1 == self._engine.micro_batches)
            parts.append(losses.parts)
            ids += batch.ids
        gradients = self._engine.gradients()
        report = self._reduce(parts, self._norms.squares(gradients))
        standing.step = step + 1
        if report.finite:
            self._norms.clip(gradients, report.norms)
            self._engine.step(values)
            self._average.update(values.momentum)
            objective.commit()
            standing.health.good()
            norms = {f"gradient_norm.{name}": norm for name, norm in self._named_norms(report)}
            standing.history.add({**report.parts, **norms})
        else:
            self._engine.skip()
            objective.reject()
            standing.health.bad(step, tuple(ids))
        return report

    def _reduce(self, parts: Sequence[dict[str, torch.Tensor]], squares: torch.Tensor) -> Report:
        """Adds up over processes, in one collective: metrics, squares of norms, and the wishes to stop or to save."""
        world = dist.get_world_size()
        names = list(parts[0])
        means = torch.stack([torch.stack([part[name] for part in parts]).double().mean() for name in names]) / world
        if self._engine.layout.replicated:
            squares = squares / world
        due = dist.get_rank() == 0 and time.monotonic() - self._saved_at >= self._params.checkpoint.seconds
        wishes = torch.tensor([self._stop(), due], dtype=torch.float64, device=squares.device)
        together = torch.cat([squares, wishes, means])
        dist.all_reduce(together)
        modules = len(squares)
        norms, means = together[:modules], together[modules + 2 :]
        stop, save = (together[modules : modules + 2] > 0).tolist()
        found = dict(zip(names, means.tolist(), strict=True))
        finite = bool(norms.isfinite().all()) and bool(torch.isfinite(means[names.index("loss")]))
        return Report(found, norms.sqrt(), finite, stop, save)

    def _named_norms(self, report: Report) -> Iterable[tuple[str, float]]:
        return zip(self._norms.modules, report.norms.tolist(), strict=True)

    def _log_row(self, standing: Standing, values: StepValues, window: "_Window") -> None:
        row = standing.history.close(standing.step)
        if dist.get_rank() == 0 and time.monotonic() - self._told_at >= TELL_SECONDS:
            self._told_at = time.monotonic()
            _log.info("step %d: loss %.4f", standing.step, row.get("loss", math.nan))
        if self._run is None:
            return
        scheduled = {
            "lr": values.lr,
            "weight_decay": values.weight_decay,
            "momentum": values.momentum,
            "teacher_temperature": values.teacher_temperature,
        }
        health = {"skipped_steps": standing.health.skipped}
        system = system_metrics(Path.cwd())
        self._run.log_metrics({**row, **scheduled, **health, **window.rates(), **system}, step=standing.step)

    def _shown(self, steps: range) -> Iterable[int]:
        if dist.get_rank():
            return steps
        return progress(steps, total=len(steps), description=self._name, unit="step")


class _Window:
    """Speed since the last row."""

    def __init__(self, loader: Loader) -> None:
        self.images = 0
        self._loader = loader
        self._waited = loader.waited_s
        self._began = time.monotonic()

    def rates(self) -> dict[str, float]:
        """Images a second over all processes, and the share of the time that waited for data."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        return {
            "images_per_second": self.images / seconds,
            "data_wait_share": (self._loader.waited_s - self._waited) / seconds,
        }
