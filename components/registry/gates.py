"""The gate: whether a candidate may take the champion's place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator

from components.parameters import Params
from components.registry.versions import RegisteredVersion

BASELINE = "pixels"
RANK = "effective_rank"
COLLAPSE = 0.5
"""Without labels nothing can be called better; a rank below this share of the champion's is called a collapse."""
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
CRON_FIELDS: tuple[tuple[str, int, int, tuple[str, ...]], ...] = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, MONTHS),
    ("weekday", 0, 7, WEEKDAYS),
)
"""Of a cron line: name, least and largest number, and words that stand for the numbers from the least on."""


class GateParams(Params):
    """When a candidate passes."""

    score: Literal["knn.top1", "linear.top1"] = Field("knn.top1", description="what is compared, of the released model")
    tolerance: float = Field(
        0.0, ge=0, le=1, description="by how much the candidate may be below the champion; 0.01 is one point"
    )


class RetrainParams(Params):
    """The loop: when to look for new images, and when their model is good enough."""

    cron: str = Field("0 3 * * *", description="when `selfsight serve-flows` starts: minute hour day month weekday")
    when: Literal["always", "on drift"] = Field(
        "always",
        description="always: train when the source holds anything new; on drift: when the new images differ from those "
        "of the champion, or it has seen forgotten ones",
    )
    gate: GateParams = Field(GateParams(), description="candidate against champion")

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, line: str) -> str:
        fields = line.split()
        if len(fields) != len(CRON_FIELDS):
            raise ValueError("five fields are needed: minute hour day month weekday, such as '0 3 * * *'")
        for text, (name, low, high, names) in zip(fields, CRON_FIELDS, strict=True):
            if not all(_is_cron_part(part, low, high, names) for part in text.lower().split(",")):
                raise ValueError(f"'{text}' is no {name}: give *, numbers of {low} to {high}, ranges, lists or steps")
        return line


def _is_cron_part(part: str, low: int, high: int, names: tuple[str, ...]) -> bool:
    """Whether this is `*`, a value or a range of values, with or without a step."""
    span, slash, step = part.partition("/")
    if slash and not (step.isdecimal() and int(step)):
        return False
    values = [
        names.index(one) + low if one in names else int(one) if one.isdecimal() else -1 for one in span.split("-")
    ]
    return span == "*" or (len(values) <= 2 and all(low <= one <= high for one in values) and values == sorted(values))


@dataclass(frozen=True)
class GateResult:
    """What the gate decided and why."""

    passed: bool
    comparable: bool
    """Whether both scores were measured on the same images."""
    reasons: tuple[str, ...]
    """One sentence each, the deciding one first."""

    def __str__(self) -> str:
        return f"{'passed' if self.passed else 'refused'}: {'; '.join(self.reasons)}"


def compare(
    candidate: RegisteredVersion,
    champion: RegisteredVersion | None,
    params: GateParams,
    *,
    champion_score: Mapping[str, float] | None = None,
    candidate_score: Mapping[str, float] | None = None,
) -> GateResult:
    """Decides whether the candidate may become champion.

    Scores are comparable if they were measured on the same images in the same way, on record or again for this
    comparison. Otherwise what both have in common is compared: the gain over raw pixels, each on its own images.
    Without labels only a collapse of the effective rank is refused.

    Args:
        candidate: the version that asks.
        champion: the version in use; None: there is none, and the candidate passes.
        params: which score, and by how much it may be lower.
        champion_score: the champion's scores, `knn.top1` with `.low` and `.high`, …, measured again on the images that
            the candidate's come from.
        candidate_score: the candidate's scores, measured again on the images that the champion's come from.
    """
    if champion is None:
        return GateResult(True, False, ("there is no champion yet",))
    if candidate.version == champion.version:
        return GateResult(False, True, (f"version {candidate.version} is the champion already",))
    ours, theirs = _Scores.of(candidate, params.score), _Scores.of(champion, params.score)
    same_images = candidate.identity is not None and candidate.identity == champion.identity
    if candidate_score is not None and params.score in candidate_score:
        ours = ours.measured_again(candidate_score, params.score)
        same_images = True
    if champion_score is not None and params.score in champion_score:
        theirs = theirs.measured_again(champion_score, params.score)
        same_images = True
    if ours.value is None or theirs.value is None:
        return _without_scores(ours, theirs, params)
    if same_images:
        return _decide(ours.value, theirs.value, params, True, (_interval(ours, theirs),))
    note = f"measured on other images than the champion (version {champion.version}): not comparable"
    if ours.baseline is None or theirs.baseline is None:
        return GateResult(False, False, (note, "there is no score of raw pixels to compare the gain over"))
    mine, other = ours.value - ours.baseline, theirs.value - theirs.baseline
    return _decide(mine, other, params, False, (note, "compared is the gain over raw pixels, each on its own images"))


@dataclass(frozen=True)
class _Scores:
    """What a version's evaluation says about its released model."""

    value: float | None
    low: float | None
    high: float | None
    baseline: float | None
    rank: float | None

    @classmethod
    def of(cls, version: RegisteredVersion, score: str) -> "_Scores":
        found: dict[str, Any] = version.evaluation
        metrics, role = found.get("metrics", {}), found.get("role", "teacher")
        return cls(
            value=metrics.get(f"{role}.{score}"),
            low=metrics.get(f"{role}.{score}.low"),
            high=metrics.get(f"{role}.{score}.high"),
            baseline=metrics.get(f"{BASELINE}.{score}"),
            rank=metrics.get(f"{role}.{RANK}"),
        )

    def measured_again(self, scores: Mapping[str, float], score: str) -> "_Scores":
        low, high = scores.get(f"{score}.low"), scores.get(f"{score}.high")
        return _Scores(scores[score], low, high, self.baseline, self.rank)


def _decide(ours: float, theirs: float, params: GateParams, comparable: bool, notes: tuple[str, ...]) -> GateResult:
    passed = ours >= theirs - params.tolerance
    allowed = f", {100 * params.tolerance:.1f} points are tolerated" if params.tolerance else ""
    relation = "not worse than" if passed else "worse than"
    sentence = f"{params.score} {_percent(ours)} is {relation} the champion's {_percent(theirs)}{allowed}"
    return GateResult(passed, comparable, (sentence, *(note for note in notes if note)))


def _without_scores(ours: _Scores, theirs: _Scores, params: GateParams) -> GateResult:
    if theirs.value is not None:
        return GateResult(False, False, (f"the candidate has no {params.score} and the champion has: labels are gone",))
    if ours.value is not None:
        return GateResult(True, False, (f"the champion was never scored; the candidate has {_percent(ours.value)}",))
    note = "no labels: nothing can be scored"
    if ours.rank is None or theirs.rank is None:
        return GateResult(False, False, (note, "and there is no effective rank to look at"))
    collapsed = ours.rank < COLLAPSE * theirs.rank
    sentence = f"effective rank {ours.rank:.1f} against the champion's {theirs.rank:.1f}"
    return GateResult(not collapsed, False, (sentence + (": collapsed" if collapsed else ""), note))


def _interval(ours: _Scores, theirs: _Scores) -> str:
    """Whether the 95 % intervals leave room for the opposite."""
    if ours.low is None or ours.high is None or theirs.low is None or theirs.high is None:
        return ""
    apart = ours.low > theirs.high or ours.high < theirs.low
    return "the 95 % intervals " + ("do not overlap" if apart else "overlap: the difference may be chance")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
