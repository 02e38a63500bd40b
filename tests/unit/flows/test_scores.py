"""The table of scores holds what was measured, and nothing else."""

from flows.scores import score_rows, score_table


def test_scores_are_percentages_with_their_intervals() -> None:
    metrics = {"teacher.knn.top1": 0.5, "teacher.knn.top1.low": 0.4, "teacher.knn.top1.high": 0.61}
    assert score_rows(metrics) == (["features", "kNN top-1"], [["teacher", "50.0 % (40.0–61.0)"]])


def test_without_labels_only_label_free_measures_are_shown() -> None:
    metrics = {"teacher.effective_rank": 12.34, "student.effective_rank": 5.0}
    assert score_rows(metrics) == (["features", "effective rank"], [["teacher", "12.3"], ["student", "5.0"]])


def test_a_score_of_zero_is_shown_and_an_absent_one_is_not() -> None:
    heads, rows = score_rows({"teacher.knn.top1": 0.0, "teacher.linear.top1": 0.5, "pixels.knn.top1": 0.2})
    assert heads == ["features", "kNN top-1", "linear top-1"]
    assert rows == [["teacher", "0.0 %", "50.0 %"], ["raw pixels", "20.0 %", ""]]


def test_nothing_measured_makes_no_table() -> None:
    assert score_table({}) is None
