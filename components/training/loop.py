"""The training loop: batches in, averaged weights out. A step is applied whole or not at all."""

import logging
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
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
from components.training.health import Setback
from components.training.heartbeat import Heartbeat
from components.training.recipe import TrainingParams
from components.training.schedules import Schedule, StepValues
from components.training.skipped_batches import SkippedBatches, parts_of_all
from components.training.standing import Standing
from components.training.throughput import Throughput, Waiting
from components.training.training_state import TrainingState

_log = logging.getLogger(__name__)
TELL_SECONDS = 60.0


class Preempted(Exception):
    """Training was asked to stop; a checkpoint of where it stands has been written."""


class Loader(Waiting, Protocol):
    """Gives the batches of each step."""

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
    setback: Setback | None = None


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
        evidence: where process 0 records the images of steps that went wrong; None on the others.
        heartbeat: shows the steps to whoever watches this process.
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
        evidence: SkippedBatches | None,
        name: str,
        heartbeat: Heartbeat | None = None,
    ) -> None:
        self._engine = engine
        self._average = average
        self._state = state
        self._params = params
        self._schedules = schedules
        self._recorded = recorded
        self._stop = stop
        self._run = run
        self._evidence = evidence
        self._heartbeat = heartbeat
        self._name = name
        self._norms = GradientNorms([shard.name for shard in engine.shards], params.clip)
        self._saved_at = self._told_at = time.monotonic()

    def train(self, loader: Loader, standing: Standing) -> None:
        """Trains from where the run stands to its end and writes a last checkpoint.

        Raises:
            Preempted: after `stop` and a checkpoint.
            UserError: when training is given up, or a disk is full.
        """
        try:
            while not self._train(loader, standing):
                pass
        finally:
            self._publish_evidence()
            if self._heartbeat is not None:
                self._heartbeat.end()

    def _train(self, loader: Loader, standing: Standing) -> bool:
        """Trains to the end, or until a checkpoint was put back; whether it is the end."""
        total, health = self._schedules.steps, standing.health
        window = Throughput(loader)
        with closing(self._batches(loader, standing)) as batches:
            for step in self._shown(range(standing.step, total)):
                passed = health.passes_over(step)
                report = self._pass_over(step, standing) if passed else self._step(step, batches, standing)
                window.images += 0 if passed else self._params.batch_size
                if report.setback is not None and self._goes_back(standing, report.setback):
                    return False
                if (step + 1) % self._params.log_every == 0 or step + 1 == total:
                    self._log_row(standing, self._schedules.at(step), window)
                    window = Throughput(loader)
                if report.stop or (report.save and not health.troubled) or step + 1 == total:
                    self.save(standing)
                if report.stop and step + 1 < total:
                    raise Preempted
                if self._heartbeat is not None:
                    self._heartbeat.beat()
        return True

    def _batches(self, loader: Loader, standing: Standing) -> Generator[CropBatch, None, None]:
        """The batches of the steps that are not passed over."""
        start = standing.step
        for first, stop in [*standing.health.passed_over, (self._schedules.steps, self._schedules.steps)]:
            if start < first:
                yield from loader.iterate(start, first, micros=self._engine.micro_batches)
            start = max(start, stop)

    def _goes_back(self, standing: Standing, setback: Setback) -> bool:
        """Puts the newest checkpoint before a setback back, if the run may and there is one. A collective."""
        health = standing.health
        folder = None
        if health.may_roll_back():
            # what went wrong may be in the weights already some steps before it shows
            folder = self._state.newest_before(health.before(setback)) or self._state.newest_before(setback.first)
        if folder is None:
            health.endure(setback)
            return False
        rollbacks = health.rollbacks
        standing.restore(self._state.load(folder))
        self._state.start_at(standing.step)
        health.rolled_back(setback, step=standing.step, rollbacks=rollbacks)
        return True

    def save(self, standing: Standing) -> None:
        """Writes a checkpoint. A collective."""
        began = time.monotonic()
        self._state.save(standing.step, {**self._recorded, **standing.as_json()})
        self._saved_at = time.monotonic()
        if self._run is not None:
            self._run.log_metrics({"checkpoint_seconds": self._saved_at - began}, step=standing.step)

    def _step(self, step: int, batches: Iterator[CropBatch], standing: Standing) -> Report:
        values = self._schedules.at(step)
        objective = cast(Objective, self._engine.module)
        measure = (step + 1) % self._params.log_every == 0 or step + 1 == self._schedules.steps
        state = StepState(step=step, seed=self._params.seed, teacher_temperature=values.teacher_temperature)
        parts: list[dict[str, torch.Tensor]] = []
        ids: list[tuple[str, ...]] = []
        for micro in range(self._engine.micro_batches):
            batch = next(batches)
            # the measures of one part of the batch are enough, and each costs collectives
            state = replace(state, measure=measure and micro == 0)
            losses: Losses = self._engine.forward(batch=batch, state=state)
            self._engine.backward(losses.loss, last=micro + 1 == self._engine.micro_batches)
            parts.append(losses.parts)
            ids.append(batch.ids)
        gradients = self._engine.gradients()
        report = self._reduce(parts, self._norms.squares(gradients))
        standing.step = step + 1
        if report.finite:
            self._norms.clip(gradients, report.norms)
            self._engine.step(values)
            self._average.update(values.momentum)
            objective.commit()
            standing.history.add({**report.parts, **self._named_norms(report)})
            setback = standing.health.good(step, report.parts)
            if standing.health.spiking:
                self._record(step, "spike", report, parts, ids)
        else:
            self._engine.skip()
            objective.reject()
            setback = standing.health.bad(step)
            self._record(step, "not finite", report, parts, ids)
        return report._replace(setback=setback)

    def _pass_over(self, step: int, standing: Standing) -> Report:
        standing.step = step + 1
        return Report({}, torch.empty(0), finite=True, stop=False, save=False)

    def _record(
        self,
        step: int,
        reason: str,
        report: Report,
        parts: Sequence[dict[str, torch.Tensor]],
        ids: Sequence[tuple[str, ...]],
    ) -> None:
        """Writes down which images were in a step that went wrong. A collective."""
        found = parts_of_all([(part["loss"].item(), one) for part, one in zip(parts, ids, strict=True)])
        if self._evidence is not None:
            self._evidence.add(step, reason, self._named_norms(report), found)

    def _publish_evidence(self) -> None:
        if self._evidence is not None and self._run is not None and not self._evidence.published:
            self._run.log_artifact(self._evidence.path, "health")
            self._evidence.published = True

    def _reduce(self, parts: Sequence[dict[str, torch.Tensor]], squares: torch.Tensor) -> Report:
        """Adds up over processes, in one collective: metrics, squares of norms, and the wishes to stop or to save."""
        world = dist.get_world_size()
        names = list(parts[0])
        found = [torch.stack([part[name] for part in parts if name in part]) for name in names]
        means = torch.stack([values.double().mean() for values in found]) / world
        if self._engine.layout.replicated:
            squares = squares / world
        due = dist.get_rank() == 0 and time.monotonic() - self._saved_at >= self._params.checkpoint.seconds
        wishes = torch.tensor([self._stop(), due], dtype=torch.float64, device=squares.device)
        together = torch.cat([squares, wishes, means])
        dist.all_reduce(together)
        modules = len(squares)
        norms, means = together[:modules], together[modules + 2 :]
        stop, save = (together[modules : modules + 2] > 0).tolist()
        finite = bool(norms.isfinite().all()) and bool(torch.isfinite(means[names.index("loss")]))
        return Report(dict(zip(names, means.tolist(), strict=True)), norms.sqrt(), finite, stop, save)

    def _named_norms(self, report: Report) -> dict[str, float]:
        names = [f"gradient_norm.{module}" for module in self._norms.modules]
        return dict(zip(names, report.norms.tolist(), strict=True))

    def _log_row(self, standing: Standing, values: StepValues, window: Throughput) -> None:
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
        health = {
            "skipped_steps": standing.health.skipped,
            "skipped_share": standing.health.skipped / max(standing.trained, 1),
            "passed_over_steps": standing.step - standing.trained,
            "rollbacks": standing.health.rollbacks,
        }
        self._publish_evidence()
        system = system_metrics(Path.cwd())
        self._run.log_metrics({**row, **scheduled, **health, **window.rates(), **system}, step=standing.step)

    def _shown(self, steps: range) -> Iterable[int]:
        if dist.get_rank():
            return steps
        return progress(steps, total=len(steps), description=self._name, unit="step")
