"""The table of scores holds what was measured, and nothing else."""

import io
from pathlib import Path

from rich.console import Console

from flows.scores import read_metrics, score_table


def shown(metrics: dict[str, float]) -> str:
    stream = io.StringIO()
    Console(file=stream, width=120).print(score_table(metrics))
    return stream.getvalue()


def test_scores_are_shown_with_their_intervals() -> None:
    metrics = {"teacher.knn.top1": 0.5, "teacher.knn.top1.low": 0.4, "teacher.knn.top1.high": 0.61}
    text = shown(metrics)
    assert all(part in text for part in ("teacher", "50.0", "40.0", "61.0"))
    assert "pixels" not in text


def test_without_labels_there_is_no_column_for_what_needs_them() -> None:
    text = shown({"teacher.effective_rank": 12.34, "student.effective_rank": 5.0})
    assert "12.34" in text
    assert "kNN" not in text


def test_nothing_measured_makes_no_table(tmp_path: Path) -> None:
    assert read_metrics(tmp_path, "evaluate") == {}
    assert score_table({}) is None
