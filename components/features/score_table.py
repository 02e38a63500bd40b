"""Scores of an evaluation as a table: for the page, the terminal and the model card."""

from collections.abc import Mapping

MODELS = {"teacher": "teacher", "student": "student", "untrained": "untrained backbone", "pixels": "raw pixels"}
SCORES = {
    "knn.top1": "kNN top-1 (k = 20)",
    "linear.top1": "linear probe top-1",
    "effective_rank": "effective rank",
    "uniformity": "uniformity",
}


def score_names(metrics: Mapping[str, float]) -> list[str]:
    """Heads of the columns of `scores_table`: of the scores that any model has.

    Args:
        metrics: those of the stage `evaluate`: `teacher.knn.top1` and so on.
    """
    return [SCORES[score] for score in _present(metrics)]


def scores_table(metrics: Mapping[str, float]) -> list[tuple[str, list[str]]]:
    """Rows of (features, one cell a score) for what was measured.

    Shares, which have intervals, are in percent, with the interval in brackets.

    Args:
        metrics: those of the stage `evaluate`, shares in 0..1.
    """
    present = _present(metrics)
    rows = [(title, [_cell(metrics, f"{model}.{score}") for score in present]) for model, title in MODELS.items()]
    return [(title, cells) for title, cells in rows if any(cells)]


def markdown_table(metrics: Mapping[str, float]) -> str:
    """The table in Markdown; empty if nothing was measured."""
    names, rows = score_names(metrics), scores_table(metrics)
    if not rows:
        return ""
    lines = [f"| features | {' | '.join(names)} |", "|---" + "|---:" * len(names) + "|"]
    return "\n".join(lines + [f"| {title} | {' | '.join(cells)} |" for title, cells in rows])


def _present(metrics: Mapping[str, float]) -> list[str]:
    return [score for score in SCORES if any(f"{model}.{score}" in metrics for model in MODELS)]


def _cell(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    if f"{name}.low" not in metrics:
        return f"{metrics[name]:.2f}"
    return f"{100 * metrics[name]:.1f} ({100 * metrics[f'{name}.low']:.1f} to {100 * metrics[f'{name}.high']:.1f})"
