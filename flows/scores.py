"""The table of scores that a run ends with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from components.stages import paths

if TYPE_CHECKING:
    from rich.table import Table

FEATURES = (
    ("teacher", "teacher"),
    ("student", "student"),
    ("untrained", "untrained backbone"),
    ("pixels", "raw pixels"),
)
SCORES = (("knn.top1", "kNN top-1"), ("linear.top1", "linear top-1"))
RANK = "effective_rank"


def read_metrics(root: Path, stage: str) -> dict[str, float]:
    """The metrics of a stage's last run; empty if there are none."""
    try:
        values = json.loads((root / paths.METRICS / f"{stage}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: float(value) for name, value in values.items()}


def score_rows(metrics: Mapping[str, float]) -> tuple[list[str], list[list[str]]]:
    """The scores as text.

    Args:
        metrics: those of stage `evaluate`: `teacher.knn.top1` with `.low` and `.high`, all in 0…1, and
            `teacher.effective_rank`.

    Returns:
        The heads of the columns that hold anything, and one row for each kind of features that was evaluated. Scores
        that need labels are left out where there were none.
    """
    columns = [(key, head) for key, head in SCORES if any(f"{name}.{key}" in metrics for name, _ in FEATURES)]
    ranked = any(f"{name}.{RANK}" in metrics for name, _ in FEATURES)
    rows = []
    for name, label in FEATURES:
        cells = [_score(metrics, f"{name}.{key}") for key, _ in columns]
        cells += [_number(metrics.get(f"{name}.{RANK}"))] if ranked else []
        if any(cells):
            rows.append([label, *cells])
    return ["features", *[head for _, head in columns], *(["effective rank"] if ranked else [])], rows


def score_table(metrics: Mapping[str, float]) -> "Table | None":
    """The scores as a table to show; None if there are none."""
    from rich.table import Table

    heads, rows = score_rows(metrics)
    if not rows:
        return None
    table = Table(caption="95 % intervals in brackets" if len(heads) > 1 else None)
    for index, head in enumerate(heads):
        table.add_column(head, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    return table


def _score(metrics: Mapping[str, float], key: str) -> str:
    value = metrics.get(key)
    if value is None:
        return ""
    low, high = metrics.get(f"{key}.low"), metrics.get(f"{key}.high")
    interval = f" ({100 * low:.1f}–{100 * high:.1f})" if low is not None and high is not None else ""
    return f"{100 * value:.1f} %{interval}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
