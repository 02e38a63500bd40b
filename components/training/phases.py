"""Phases of a run: what the crops are, from which step to which. A high-resolution phase may be the last one."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, Self

from pydantic import Field, model_validator

from components.data.batch import CropBatch
from components.data.views import ViewParams
from components.errors import UserError
from components.parameters import Params
from components.training.schedules import ScheduleParams


class HighResolutionParams(Params):
    """The last phase of DINOv2: the same losses on larger crops (Oquab et al. 2024, section 4)."""

    share: float | None = Field(default=None, gt=0, lt=1, description="of all steps, the last ones; or give steps")
    steps: int | None = Field(default=None, gt=0, description="how many of the last steps; or give share")
    global_size: int = Field(default=518, gt=0, description="side of a global crop, pixels")
    local_size: int | None = Field(default=None, gt=0, description="side of a local crop, pixels; null: as before")
    local_crops: int | None = Field(default=None, ge=0, description="local crops an image; null: as before")
    schedule: ScheduleParams | None = Field(
        default=None,
        description="of this phase, over its own steps, while that of the run ends where it begins; "
        "null: the schedule of the run goes on",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.share is None) == (self.steps is None):
            raise ValueError("give either share or steps")
        return self

    def views(self, before: ViewParams) -> ViewParams:
        """The crops of this phase."""
        changed = {"global_size": self.global_size, "local_size": self.local_size, "local_crops": self.local_crops}
        return before.model_copy(update={name: value for name, value in changed.items() if value is not None})

    def begins(self, total: int) -> int:
        """The step it begins at, of so many.

        Raises:
            UserError: if nothing would be left before it.
        """
        length = self.steps if self.steps is not None else max(round((self.share or 0) * total), 1)
        if length >= total:
            raise UserError(
                f"high_resolution takes {length} of {total} steps",
                remedy=f"give it fewer than {total}, or set views to its sizes and high_resolution to null",
            )
        return total - length


@dataclass(frozen=True)
class Phase:
    """Steps with crops of the same sizes.

    Attributes:
        start: first step.
        stop: the step after the last.
        views: the crops.
    """

    start: int
    stop: int
    views: ViewParams


class StepLoader(Protocol):
    """Makes the batches of a phase."""

    waited_s: float

    def iterate(self, start: int, stop: int, *, micros: int = 1) -> Generator[CropBatch, None, None]:
        """Batches of steps `start` to before `stop`, each step in `micros` parts."""
        ...

    def close(self) -> None:
        """Lets go of threads."""
        ...


class PhasedLoader:
    """Batches of a run, phase after phase. What a step sees depends on the step alone, so that a resume is exact.

    Args:
        phases: one after the other, without a gap.
        make: the loader of a phase; made when its first batch is wanted, closed after its last.
    """

    def __init__(self, phases: Sequence[Phase], make: Callable[[ViewParams], StepLoader]) -> None:
        self.waited_s = 0.0
        """Seconds that `iterate` has waited for a batch."""
        self._phases = phases
        self._make = make
        self._current: StepLoader | None = None

    def iterate(self, start: int, stop: int, *, micros: int = 1) -> Generator[CropBatch, None, None]:
        """Batches of the steps from `start` to before `stop`, each in `micros` parts."""
        for phase in self._phases:
            first, last = max(start, phase.start), min(stop, phase.stop)
            if first >= last:
                continue
            loader, waited = self._make(phase.views), self.waited_s
            self._current = loader
            with closing(loader.iterate(first, last, micros=micros)) as batches:
                for batch in batches:
                    self.waited_s = waited + loader.waited_s
                    yield batch
            self.close()

    def close(self) -> None:
        """Ends the threads of the loader of the present phase."""
        if self._current is not None:
            self._current.close()
            self._current = None
