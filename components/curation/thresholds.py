"""What a threshold lets through and what it misses, on pairs of which it is known whether they are copies."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float

STEPS = 101
"""Thresholds from 0 to 1 that a curve is taken at."""
SPARED = 0.01
"""Recall that a safer threshold may cost."""


class ScoredPairs(NamedTuple):
    """Pairs of images with a measure of how alike they are."""

    first: Sequence[str]
    second: Sequence[str]
    score: Float[np.ndarray, " pairs"]
    same: Bool[np.ndarray, " pairs"]
    """Whether they are copies of each other."""
    transform: Sequence[str | None]
    """What was done to the second picture, where it is known."""

    def table(self) -> pa.Table:
        """All columns, the pairs that are no copies first and of those the most alike: these are worth a look."""
        order = np.lexsort((-self.score, self.same))
        return pa.table(
            {
                "first": pa.array([self.first[row] for row in order], pa.string()),
                "second": pa.array([self.second[row] for row in order], pa.string()),
                "same": pa.array(self.same[order], pa.bool_()),
                "score": pa.array(np.round(self.score[order], 4), pa.float32()),
                "transform": pa.array([self.transform[row] for row in order], pa.string()),
            }
        )


def curve(pairs: ScoredPairs) -> pa.Table:
    """Precision and recall by threshold.

    Returns:
        `threshold`, rising; `recall`: share of the copies that reach it; `precision`: share of copies among what
        reaches it, null where nothing does; `copies`, `others`: how many pairs of each reach it.
    """
    thresholds = np.linspace(0.0, 1.0, STEPS)
    copies, others = (_reach(pairs.score[kind], thresholds) for kind in (pairs.same, ~pairs.same))
    found = copies + others
    precision = np.divide(copies, found, out=np.full(STEPS, np.nan), where=found > 0)
    return pa.table(
        {
            "threshold": pa.array(np.round(thresholds, 2), pa.float64()),
            "recall": pa.array(copies / max(1, int(pairs.same.sum())), pa.float64()),
            "precision": pa.array(precision, pa.float64(), from_pandas=True),
            "copies": pa.array(copies, pa.int64()),
            "others": pa.array(others, pa.int64()),
        }
    )


def _reach(scores: Float[np.ndarray, " pairs"], thresholds: Float[np.ndarray, " steps"]) -> np.ndarray:
    return len(scores) - np.searchsorted(np.sort(scores), thresholds - 1e-6, side="left")


def suggest(table: pa.Table, precision: float) -> dict[str, float] | None:
    """The row of the threshold to take: the highest that costs next to no recall; None if no precision suffices.

    The lowest threshold of the wanted precision would have the best recall, on these pairs; pairs that they do not hold
    are the safer, the higher it is. So it is raised as long as recall stays within `SPARED` of that.

    Args:
        table: of `curve`.
        precision: wanted at this threshold and at all above it, in (0, 1].
    """
    good: list[dict[str, float]] = []
    for row in reversed(table.to_pylist()):
        if row["precision"] is not None:
            if row["precision"] < precision:
                break
            good.append(row)
    return next((row for row in good if row["recall"] >= good[-1]["recall"] - SPARED), None)


def recall_by_transform(pairs: ScoredPairs, threshold: float) -> dict[str, float]:
    """Share of the copies that reach a threshold, by what was done to them."""
    hits: dict[str, list[bool]] = {}
    for name, same, score in zip(pairs.transform, pairs.same.tolist(), pairs.score.tolist(), strict=True):
        if same and name is not None:
            hits.setdefault(name, []).append(score >= threshold - 1e-6)
    return {name: sum(found) / len(found) for name, found in sorted(hits.items())}


def draw_curve(table: pa.Table, path: Path, *, measure: str, suggested: float | None) -> None:
    """Draw precision and recall against the threshold.

    Args:
        table: of `curve`.
        path: PNG to write.
        measure: what the threshold is held against.
        suggested: a threshold to mark.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for name in ("precision", "recall"):
        axes.plot(table["threshold"].to_numpy(), table[name].to_numpy(zero_copy_only=False), label=name)
    if suggested is not None:
        axes.axvline(suggested, color="grey", linestyle="--", label=f"suggested: {suggested:.2f}")
    axes.set(xlabel=f"threshold of {measure}", ylabel="share", xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
