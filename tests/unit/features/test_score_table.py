"""Tables show what was measured, and nothing else."""

from components.features.score_table import markdown_table, score_names, scores_table

METRICS = {
    "teacher.knn.top1": 0.5,
    "teacher.knn.top1.low": 0.45,
    "teacher.knn.top1.high": 0.551,
    "teacher.effective_rank": 12.34,
    "pixels.knn.top1": 0.25,
    "pixels.knn.top1.low": 0.2,
    "pixels.knn.top1.high": 0.3,
}


def test_shares_are_percent_with_intervals_and_other_measures_are_numbers() -> None:
    assert score_names(METRICS) == ["kNN top-1 (k = 20)", "effective rank"]
    assert scores_table(METRICS) == [
        ("teacher", ["50.0 (45.0 to 55.1)", "12.34"]),
        ("raw pixels", ["25.0 (20.0 to 30.0)", ""]),
    ]


def test_scores_that_are_absent_make_no_column() -> None:
    assert "top-1" not in markdown_table({"teacher.effective_rank": 3.0})
    assert scores_table({}) == []
