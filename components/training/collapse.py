"""Has the teacher stopped to tell images apart? Then training on goes nowhere, and the loss does not show it."""

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from components.errors import UserError
from components.parameters import Params

SHOWN = ("teacher_entropy", "prototype_usage", "feature_std", "effective_rank")


class CollapseParams(Params):
    """Below which thresholds, and for how long, training counts as collapsed."""

    information: float = Field(
        default=0.02,
        ge=0,
        description="nats that the teacher's prototypes tell of an image, ln(prototypes x prototype_usage) - "
        "teacher_entropy: 0 when all images get the same prototypes, be it one or all alike",
    )
    feature_std: float = Field(default=0.01, ge=0, description="spread of the features: 0 when all are alike, about 1")
    effective_rank: float = Field(default=1.1, ge=0, description="directions that the features vary in, at least 1")
    patience: float | None = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of the steps that a measure stays below its threshold; null: collapse is not looked for",
    )
    least_steps: int = Field(default=200, ge=1, description="steps that it stays there at least")
    begin: float = Field(
        default=0.2,
        ge=0,
        le=1,
        description="share of the steps before which nothing is judged: features begin alike, and a warm-up or a small "
        "layer_scale keeps them so for a while",
    )


class CollapseWatch:
    """Since when each measure is below its threshold.

    Args:
        params: thresholds and times.
        prototypes: of the head that the measures look at; None: `information` cannot be told.
        steps: of the whole run.
    """

    def __init__(self, params: CollapseParams, *, prototypes: int | None, steps: int) -> None:
        self._params = params
        self._prototypes = prototypes
        self._begin = params.begin * steps
        self._patience = None if params.patience is None else max(params.patience * steps, params.least_steps)
        self._since: dict[str, int] = {}

    def look(self, step: int, measures: Mapping[str, float]) -> None:
        """Judges the measures of a step.

        Args:
            step: its number.
            measures: metrics of the step; without the health measures among them nothing happens.

        Raises:
            UserError: with the numbers, if one has been below its threshold for too long.
        """
        if self._patience is None or step < self._begin or not measures.keys() >= set(SHOWN):
            return
        for name, value in self._judged(measures).items():
            threshold = getattr(self._params, name)
            if not value < threshold:  # not a number: that step is skipped, and says nothing
                self._since.pop(name, None)
                continue
            first = self._since.setdefault(name, step)
            if step - first >= self._patience:
                raise self._collapsed(name, value, first, step, measures)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"since": self._since}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Puts back what `as_json` gave."""
        self._since = dict(values["since"])

    def _judged(self, measures: Mapping[str, float]) -> dict[str, float]:
        found = {name: measures[name] for name in ("feature_std", "effective_rank")}
        usage = measures["prototype_usage"]
        if self._prototypes is not None and usage > 0:
            found["information"] = math.log(self._prototypes * usage) - measures["teacher_entropy"]
        return found

    def _collapsed(self, name: str, value: float, first: int, step: int, measures: Mapping[str, float]) -> UserError:
        shown = ", ".join(f"{one} {measures[one]:.4g}" for one in SHOWN)
        most = f"; ln {self._prototypes} prototypes is {math.log(self._prototypes):.4g}" if self._prototypes else ""
        return UserError(
            f"training has collapsed: {name} {value:.4g} has been below {getattr(self._params, name):g} since step "
            f"{first}, now is step {step} ({shown}{most})",
            remedy="look at objective.centring and schedule (lr, teacher_temperature, momentum) and train anew; "
            "the thresholds are under health.collapse",
        )
