"""A loss far above what it has just been, for several steps: weights or batches have gone wrong."""

import statistics
from collections import deque
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from components.parameters import Params

NORMAL = 1.4826
"""Standard deviations of a normal distribution in one of its median absolute deviations."""


class SpikeParams(Params):
    """From when a loss is a spike. The bounds are wide: a healthy run must not meet them."""

    factor: float | None = Field(
        default=20.0,
        gt=0,
        description="a spike is so many standard deviations (estimated by the median absolute deviation) above the "
        "median of the recent losses; null: nothing is a spike",
    )
    rise: float = Field(default=0.5, ge=0, description="and by at least this share of the median above it")
    window: int = Field(default=100, ge=4, description="recent losses, steps; before there are so many, none is judged")
    patience: int = Field(default=5, ge=1, description="spikes in a row after which training goes back to a checkpoint")


class SpikeWatch:
    """The recent losses, and the spikes since the last one that was none.

    Median and median absolute deviation do not follow the very losses that they are to judge, as mean and standard
    deviation would; spikes are kept out of the window as well.

    Args:
        params: from when a loss is a spike.
    """

    def __init__(self, params: SpikeParams) -> None:
        self._params = params
        self._recent: deque[float] = deque(maxlen=params.window)
        self.in_a_row = 0
        """Spikes since the last loss that was none."""

    @property
    def bound(self) -> float | None:
        """Above it a loss is a spike; None: it cannot be told yet."""
        if self._params.factor is None or len(self._recent) < self._params.window:
            return None
        centre = statistics.median(self._recent)
        deviation = NORMAL * statistics.median(abs(loss - centre) for loss in self._recent)
        return centre + max(self._params.factor * deviation, self._params.rise * abs(centre))

    def add(self, loss: float) -> bool:
        """Takes in the loss of a step.

        Returns:
            Whether there have been too many spikes in a row.
        """
        bound = self.bound
        if bound is None or loss <= bound:
            self.in_a_row = 0
            self._recent.append(loss)
            return False
        self.in_a_row += 1
        return self.in_a_row >= self._params.patience

    def accept(self) -> None:
        """Starts over: what comes now is the level that later losses are held against."""
        self._recent.clear()
        self.in_a_row = 0

    def as_json(self) -> dict[str, Any]:
        """Plain values; floats survive JSON bit for bit."""
        return {"recent": list(self._recent), "in_a_row": self.in_a_row}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Puts back what `as_json` gave."""
        self._recent = deque(values["recent"], maxlen=self._params.window)
        self.in_a_row = values["in_a_row"]
