"""Metrics of a run, averaged over windows of steps: a pure function of the run, without any time in it."""

import csv
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

FINAL_SHARE = 0.1


@dataclass
class History:
    """Rows of averages, and the window that is still open.

    Attributes:
        rows: `step` (steps done at the end of the window) and averages.
        sums: of the open window by metric.
        counts: how many values were added to each sum.
    """

    rows: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `as_json` gave, exactly."""
        return cls(rows=values["rows"], sums=values["sums"], counts=values["counts"])

    def as_json(self) -> dict[str, Any]:
        """Plain values; floats survive JSON bit for bit."""
        return asdict(self)

    def add(self, values: Mapping[str, float]) -> None:
        """Adds the metrics of one step to the open window."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def close(self, step: int) -> dict[str, float]:
        """Ends the window.

        Args:
            step: steps done.

        Returns:
            Its averages, without `step`.
        """
        averages = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.rows.append({"step": step, **averages})
        self.sums.clear()
        self.counts.clear()
        return averages

    def final(self) -> dict[str, float]:
        """Averages over the rows of the last tenth of the run, at least one row."""
        if not self.rows:
            return {}
        start = self.rows[-1]["step"] * (1 - FINAL_SHARE)
        last = [row for row in self.rows if row["step"] > start]
        names = dict.fromkeys(name for row in last for name in row if name != "step")
        found = {name: [row[name] for row in last if name in row] for name in names}
        return {name: sum(values) / len(values) for name, values in found.items()}

    def write_csv(self, path: Path) -> None:
        """One line a row, seven digits; a metric that a row lacks is left empty."""
        names = list(dict.fromkeys(name for row in self.rows for name in row)) or ["step"]
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            writer.writerows([_shown(row[name]) if name in row else "" for name in names] for row in self.rows)


def _shown(value: float) -> str:
    return f"{value:.7g}"
