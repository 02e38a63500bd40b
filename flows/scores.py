"""The table of scores that a run ends with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from components.stages import paths

if TYPE_CHECKING:
    from rich.table import Table


def read_metrics(root: Path, stage: str) -> dict[str, float]:
    """The metrics of a stage's last run; empty if there are none."""
    try:
        values = json.loads((root / paths.METRICS / f"{stage}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: float(value) for name, value in values.items()}


def score_table(metrics: Mapping[str, float]) -> "Table | None":
    """The scores of stage `evaluate` as a table to show; None if there are none.

    Scores that need labels have no column where there were no labels.
    """
    from rich.table import Table

    from components.features.score_table import score_names, scores_table

    rows = scores_table(metrics)
    if not rows:
        return None
    table = Table(caption="shares in percent, with 95 % intervals")
    for index, head in enumerate(["features", *score_names(metrics)]):
        table.add_column(head, justify="right" if index else "left")
    for model, cells in rows:
        table.add_row(model, *cells)
    return table
