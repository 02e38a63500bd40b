"""What changes from step to step: learning rate, weight decay, teacher momentum and temperature."""

import math
from dataclasses import dataclass
from typing import Protocol, Self

from pydantic import Field, model_validator

from components.parameters import Params


class ScheduleParams(Params):
    """Values at the start and at the end of training. Lengths are shares of all steps, so that they scale with it."""

    lr: float = Field(default=4e-3, gt=0, description="peak learning rate, before the scaling rule")
    lr_reference_batch: int | None = Field(
        default=1024, gt=0, description="the peak is lr x sqrt(batch_size / this); null: lr as it is"
    )
    min_lr: float = Field(default=1e-6, ge=0, description="learning rate at the end")
    warmup: float = Field(default=0.1, ge=0, le=1, description="share of the steps in which lr rises linearly")
    weight_decay: float = Field(default=0.04, ge=0, description="weight decay at the start")
    weight_decay_end: float = Field(default=0.4, ge=0, description="weight decay at the end (cosine)")
    momentum: float = Field(default=0.992, ge=0, le=1, description="momentum of the averaged weights at the start")
    momentum_end: float = Field(default=1.0, ge=0, le=1, description="momentum at the end (cosine)")
    teacher_temperature: float = Field(default=0.04, gt=0, description="temperature of the teacher at the start")
    teacher_temperature_end: float = Field(default=0.07, gt=0, description="temperature after its warm-up")
    teacher_warmup: float = Field(
        default=0.3, ge=0, le=1, description="share of the steps in which the teacher's temperature rises linearly"
    )
    freeze_last_layer: float = Field(
        default=0.01, ge=0, le=1, description="share of the steps in which the prototypes do not learn"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.momentum > self.momentum_end:
            raise ValueError(f"momentum {self.momentum} must not be above momentum_end {self.momentum_end}")
        return self


@dataclass(frozen=True)
class StepValues:
    """The scheduled values of one step."""

    lr: float
    last_layer_lr: float
    weight_decay: float
    momentum: float
    teacher_temperature: float


@dataclass(frozen=True)
class Schedules:
    """Schedules of a run.

    Attributes:
        params: start and end values.
        steps: optimizer steps of the whole run.
        batch_size: images of a step, for the scaling rule.
    """

    params: ScheduleParams
    steps: int
    batch_size: int

    @property
    def peak_lr(self) -> float:
        """Learning rate at the end of the warm-up: lr x sqrt(batch / reference) (DINOv2, section 4)."""
        reference = self.params.lr_reference_batch
        return self.params.lr * (math.sqrt(self.batch_size / reference) if reference else 1.0)

    def at(self, step: int) -> StepValues:
        """Values of a step, counted from 0."""
        params = self.params
        progress = min(step / max(self.steps - 1, 1), 1.0)
        lr = self._lr(step)
        return StepValues(
            lr=lr,
            last_layer_lr=0.0 if step < round(params.freeze_last_layer * self.steps) else lr,
            weight_decay=_cosine(params.weight_decay, params.weight_decay_end, progress),
            momentum=_cosine(params.momentum, params.momentum_end, progress),
            teacher_temperature=self._teacher_temperature(step),
        )

    def _lr(self, step: int) -> float:
        warmup = round(self.params.warmup * self.steps)
        if step < warmup:
            return self.peak_lr * (step + 1) / warmup
        progress = (step - warmup) / max(self.steps - 1 - warmup, 1)
        return _cosine(self.peak_lr, self.params.min_lr, min(progress, 1.0))

    def _teacher_temperature(self, step: int) -> float:
        start, end = self.params.teacher_temperature, self.params.teacher_temperature_end
        warmup = round(self.params.teacher_warmup * self.steps)
        return end if step >= warmup else start + (end - start) * step / warmup


class Schedule(Protocol):
    """The values of every step of a run."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        ...

    def at(self, step: int) -> StepValues:
        """Values of a step, counted from 0."""
        ...


@dataclass(frozen=True)
class ScheduleInTurn:
    """A schedule that ends, and another one, with a warm-up of its own, for the steps after it.

    Attributes:
        first: of the steps before.
        last: of the steps after, which it counts from 0.
    """

    first: Schedules
    last: Schedules

    @property
    def steps(self) -> int:
        """Optimizer steps of both."""
        return self.first.steps + self.last.steps

    def at(self, step: int) -> StepValues:
        """Values of a step, counted from 0 over both."""
        switch = self.first.steps
        return self.first.at(step) if step < switch else self.last.at(step - switch)


def _cosine(start: float, end: float, progress: float) -> float:
    """Half a cosine wave from start (progress 0) to end (progress 1)."""
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * progress))
