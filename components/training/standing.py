"""How far a run is: all that goes into a checkpoint beside tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from components.training.health import Health
from components.training.history import History


@dataclass
class Standing:
    """How far a run is.

    Attributes:
        step: steps done, those that were skipped or passed over included.
        health: what went wrong.
        history: metrics so far.
    """

    step: int
    health: Health
    history: History = field(default_factory=History)

    @property
    def trained(self) -> int:
        """Steps done without those that were passed over."""
        passed = sum(min(stop, self.step) - min(first, self.step) for first, stop in self.health.passed_over)
        return self.step - passed

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"history": self.history.as_json(), "health": self.health.as_json()}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Puts back what a checkpoint holds: what `as_json` gave, and `step`."""
        self.step = values["step"]
        self.history = History.from_json(values["history"])
        self.health.restore(values["health"])
