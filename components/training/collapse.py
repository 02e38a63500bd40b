"""Does what is trained tell images apart no more? Then training on goes nowhere, and the loss does not show it.

In pretraining the teacher is judged, which follows the student. In distillation it is frozen: the student and its
average are judged beside it.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import Field

from components.errors import UserError
from components.parameters import Params

FEATURES = ("feature_std", "effective_rank")


class _Subject(NamedTuple):
    """What is judged: the prefix of its measures, those of its prototypes (entropy, usage), and what to do about it."""

    prefix: str
    heads: tuple[str, ...]
    remedy: str


_SUBJECTS = (
    _Subject(
        "",
        ("teacher_entropy", "prototype_usage"),
        "look at objective.centring and schedule (lr, teacher_temperature, momentum) and train anew",
    ),
    _Subject(
        "student_",
        ("student_entropy", "student_prototype_usage"),
        "lower schedule.lr, look at clip and at the weights in objective, and distil anew",
    ),
    _Subject("spare_", (), "it is the average of the student: look at schedule.momentum, and distil anew"),
)


class CollapseParams(Params):
    """Below which thresholds, and for how long, training counts as collapsed."""

    information: float = Field(
        default=0.02,
        ge=0,
        description="nats that the prototypes tell of an image, ln(prototypes x prototype_usage) - entropy: 0 when all "
        "images get the same prototypes, be it one or all alike",
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
        if self._patience is None or step < self._begin:
            return
        for subject in _SUBJECTS:
            if not measures.keys() >= {f"{subject.prefix}{name}" for name in FEATURES}:
                continue
            for name, value in self._judged(subject, measures).items():
                self._judge(subject, name, value, step, measures)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"since": self._since}

    def restore(self, values: Mapping[str, Any]) -> None:
        """Puts back what `as_json` gave."""
        self._since = dict(values["since"])

    def _judge(self, subject: _Subject, name: str, value: float, step: int, measures: Mapping[str, float]) -> None:
        key, threshold = f"{subject.prefix}{name}", getattr(self._params, name)
        if not value < threshold:  # not a number: that step is skipped, and says nothing
            self._since.pop(key, None)
            return
        first = self._since.setdefault(key, step)
        if self._patience is not None and step - first >= self._patience:
            shown = (*subject.heads, *(f"{subject.prefix}{one}" for one in FEATURES))
            numbers = ", ".join(f"{one} {measures[one]:.4g}" for one in shown if one in measures)
            most = f"; ln {self._prototypes} prototypes is {math.log(self._prototypes):.4g}" if self._prototypes else ""
            raise UserError(
                f"training has collapsed: {key} {value:.4g} has been below {threshold:g} since step {first}, "
                f"now is step {step} ({numbers}{most})",
                remedy=f"{subject.remedy}; the thresholds are under health.collapse",
            )

    def _judged(self, subject: _Subject, measures: Mapping[str, float]) -> dict[str, float]:
        found = {name: measures[f"{subject.prefix}{name}"] for name in FEATURES}
        if self._prototypes is not None and subject.heads and measures.keys() >= set(subject.heads):
            entropy, usage = (measures[name] for name in subject.heads)
            if usage > 0:
                found["information"] = math.log(self._prototypes * usage) - entropy
        return found
