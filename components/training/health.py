"""Is training still sane? What to do about steps that are not finite, about spikes of the loss, and about collapse.

Nothing here touches weights: the loop reports what happened and is told to go back, or gets the error to end with. All
of it is a function of numbers that every process has, so that all decide alike.
"""

import logging
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from pydantic import Field

from components.errors import UserError
from components.parameters import Params
from components.training.collapse import CollapseParams, CollapseWatch
from components.training.spikes import SpikeParams, SpikeWatch

_log = logging.getLogger(__name__)


class HealthParams(Params):
    """When training goes back to a checkpoint, and when it is given up."""

    max_skipped: int = Field(
        default=10,
        ge=1,
        description="steps in a row without a finite loss and gradient, after which training goes back",
    )
    max_rollbacks: int = Field(
        default=1, ge=0, description="times that a run goes back to a checkpoint and passes over what went wrong"
    )
    margin: int = Field(
        default=10, ge=0, description="steps before the first bad one that are passed over too: the cause comes first"
    )
    spike: SpikeParams = Field(default=SpikeParams(), description="from when a loss is a spike")
    collapse: CollapseParams = Field(default=CollapseParams(), description="from when training has collapsed")


class Setback(NamedTuple):
    """Steps after which training has to go back.

    Attributes:
        kind: what was wrong in them.
        first: the first of them.
        last: the last one, just done.
    """

    kind: Literal["not finite", "spike"]
    first: int
    last: int


class Health:
    """What has gone wrong so far, and what follows from it.

    Args:
        params: the bounds.
        prototypes: of the head whose measures tell a collapse; None: there is none.
        steps: of the whole run.
    """

    def __init__(self, params: HealthParams, *, prototypes: int | None = None, steps: int = 0) -> None:
        self._params = params
        self._spikes = SpikeWatch(params.spike)
        self._collapse = CollapseWatch(params.collapse, prototypes=prototypes, steps=steps)
        self.skipped = 0
        """Steps that were not finite, of the whole run."""
        self.in_a_row = 0
        """Those since the last finite one."""
        self.rollbacks = 0
        """Times that the run went back."""
        self.passed_over: list[tuple[int, int]] = []
        """Windows of steps that are not trained on: first, and the one after the last."""

    @property
    def troubled(self) -> bool:
        """Whether the last step was a bad one: a checkpoint of now might keep what is wrong."""
        return self.in_a_row > 0 or self.spiking

    @property
    def spiking(self) -> bool:
        """Whether the last loss was a spike."""
        return self._spikes.in_a_row > 0

    def passes_over(self, step: int) -> bool:
        """Whether a step lies in a window that is not trained on."""
        return any(first <= step < stop for first, stop in self.passed_over)

    def good(self, step: int, measures: Mapping[str, float]) -> Setback | None:
        """A step was applied.

        Args:
            step: its number.
            measures: its metrics, `loss` among them.

        Raises:
            UserError: if training has collapsed.
        """
        self.in_a_row = 0
        self._collapse.look(step, measures)
        if self._spikes.add(measures["loss"]):
            return Setback("spike", step - self._spikes.in_a_row + 1, step)
        return None

    def bad(self, step: int) -> Setback | None:
        """A step was skipped, because its loss or gradient is not finite."""
        self.skipped += 1
        self.in_a_row += 1
        if self.in_a_row >= self._params.max_skipped:
            return Setback("not finite", step - self.in_a_row + 1, step)
        return None

    def may_roll_back(self) -> bool:
        """Whether the run has a roll-back left."""
        return self.rollbacks < self._params.max_rollbacks

    def before(self, setback: Setback) -> int:
        """A step at which the cause of a setback has not come yet, so far as one can tell."""
        return max(setback.first - self._params.margin, 0)

    def rolled_back(self, setback: Setback, *, step: int, rollbacks: int) -> None:
        """Training stands at a checkpoint before a setback, whose values have been put back.

        Args:
            setback: what made it go back.
            step: of the checkpoint.
            rollbacks: roll-backs before this one, which the checkpoint cannot know.
        """
        earlier = max((stop for _, stop in self.passed_over), default=0)
        window = (max(step, earlier, self.before(setback)), setback.last + 1)
        self.passed_over.append(window)
        self.rollbacks = rollbacks + 1
        _log.warning(
            "steps %d to %d: %s; back to the checkpoint of step %d, steps %d to %d will be passed over",
            *(setback.first, setback.last, _TOLD[setback.kind], step, window[0], window[1] - 1),
        )

    def endure(self, setback: Setback) -> None:
        """Goes on where there is no way back.

        Raises:
            UserError: unless only the loss is higher than it was.
        """
        if setback.kind == "spike":
            _log.warning("steps %d to %d: %s; training goes on", setback.first, setback.last, _TOLD[setback.kind])
            self._spikes.accept()
            return
        before = f", also after {self.rollbacks} roll-back(s)" if self.rollbacks else ", and there is no way back"
        raise UserError(
            f"loss or gradient was not finite in steps {setback.first} to {setback.last}, "
            f"{setback.last - setback.first + 1} in a row{before}",
            remedy="look at the images of those steps, listed in the run's artifacts and beside its checkpoints, or "
            "lower schedule.lr or clip.max_norm; health.max_rollbacks allows more attempts",
        )

    def as_json(self) -> dict[str, Any]:
        """Plain values, all that later decisions depend on."""
        return {
            "skipped": self.skipped,
            "in_a_row": self.in_a_row,
            "rollbacks": self.rollbacks,
            "passed_over": self.passed_over,
            "spikes": self._spikes.as_json(),
            "collapse": self._collapse.as_json(),
        }

    def restore(self, values: Mapping[str, Any]) -> None:
        """Puts back what `as_json` gave."""
        self.skipped = values["skipped"]
        self.in_a_row = values["in_a_row"]
        self.rollbacks = values["rollbacks"]
        self.passed_over = [(first, stop) for first, stop in values["passed_over"]]
        self._spikes.restore(values["spikes"])
        self._collapse.restore(values["collapse"])


_TOLD = {"not finite": "loss or gradient is not finite", "spike": "the loss is far above what it was"}
