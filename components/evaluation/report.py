"""The evaluation as a page for people."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from pydantic import Field

from components.evaluation.linear import LinearParams
from components.parameters import Params

MODELS = ("teacher", "student", "untrained", "pixels")
SCORES = {
    "knn.top1": "kNN top-1 (k = 20)",
    "linear.top1": "linear probe top-1",
    "effective_rank": "effective rank",
    "uniformity": "uniformity",
}
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse}td,th{padding:.35rem .9rem;border-bottom:1px solid #ddd;text-align:right}"
    "th:first-child,td:first-child{text-align:left}img{max-width:100%}small{color:#666}"
)


class EvaluateParams(Params):
    """Downstream evaluation of frozen features."""

    seed: int = Field(default=0, ge=0, description="of splits, probes and the untrained backbone")
    batch_size: int = Field(default=256, ge=1, description="images of one forward pass")
    linear: LinearParams = Field(default=LinearParams(), description="linear probe")
    pictures: int = Field(default=16, ge=0, description="images shown in each picture; 0: no pictures")


def scores_table(metrics: Mapping[str, float]) -> list[tuple[str, list[str]]]:
    """Rows of (model, one cell a score) for the models and scores that are there; shares in percent with intervals."""
    present = [score for score in SCORES if any(f"{model}.{score}" in metrics for model in MODELS)]
    rows = [(model, [_cell(metrics, f"{model}.{score}") for score in present]) for model in MODELS]
    return [(model, cells) for model, cells in rows if any(cells)]


def score_names(metrics: Mapping[str, float]) -> list[str]:
    """Names of the columns of `scores_table`."""
    return [title for score, title in SCORES.items() if any(f"{model}.{score}" in metrics for model in MODELS)]


def markdown_table(metrics: Mapping[str, float]) -> str:
    """The table of scores in Markdown."""
    names = score_names(metrics)
    lines = [f"| features | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    lines += [f"| {model} | {' | '.join(cells)} |" for model, cells in scores_table(metrics)]
    return "\n".join(lines)


def write_page(metrics: Mapping[str, float], pictures: Sequence[tuple[str, str]], path: Path) -> None:
    """Writes one self-contained page.

    Args:
        metrics: flat scores.
        pictures: (title, file name beside the page).
        path: HTML file to write.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in score_names(metrics))
    rows = "".join(
        f"<tr><td>{escape(model)}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for model, cells in scores_table(metrics)
    )
    images = "".join(
        f'<h2>{escape(title)}</h2><img src="{escape(name)}" alt="{escape(title)}">' for title, name in pictures
    )
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Evaluation</title><style>{_STYLE}</style>'
        f"<h1>Evaluation of frozen features</h1><table><tr><th>features</th>{head}</tr>{rows}</table>"
        "<p><small>Shares in percent with 95 % intervals, on images that no model was trained on. Untrained: the"
        " teacher's architecture with random weights. Pixels: raw pixels at 32 × 32.</small></p>"
        f"{images}</html>\n",
        encoding="utf-8",
    )


def _cell(metrics: Mapping[str, float], name: str) -> str:
    if name not in metrics:
        return ""
    if f"{name}.low" not in metrics:
        return f"{metrics[name]:.2f}"
    return f"{100 * metrics[name]:.1f} ({100 * metrics[f'{name}.low']:.1f} to {100 * metrics[f'{name}.high']:.1f})"
