"""The evaluation as a page for people."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pydantic import Field

from components.evaluation.linear import LinearParams
from components.features.score_table import score_names, scores_table
from components.parameters import Params

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

    def protocol(self) -> dict[str, Any]:
        """The parameters that decide the scores, as plain values: scores of other ones are not comparable."""
        return self.model_dump(mode="json", include={"seed", "linear"})


def write_page(metrics: Mapping[str, float], pictures: Sequence[tuple[str, str]], path: Path) -> None:
    """Writes one self-contained page: it can be sent by mail, and MLflow shows it whole.

    Args:
        metrics: flat scores.
        pictures: (title, name of a PNG beside the page).
        path: HTML file to write.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in score_names(metrics))
    rows = "".join(
        f"<tr><td>{escape(model)}</td>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for model, cells in scores_table(metrics)
    )
    images = "".join(_figure(title, path.with_name(name)) for title, name in pictures)
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Evaluation</title><style>{_STYLE}</style>'
        f"<h1>Evaluation of frozen features</h1><table><tr><th>features</th>{head}</tr>{rows}</table>"
        "<p><small>Shares in percent with 95 % intervals, on images that no model was trained on. Untrained: the"
        " teacher's architecture with random weights. Pixels: raw pixels at 32 × 32.</small></p>"
        f"{images}</html>\n",
        encoding="utf-8",
    )


def _figure(title: str, picture: Path) -> str:
    data = b64encode(picture.read_bytes()).decode()
    return f'<h2>{escape(title)}</h2><img src="data:image/png;base64,{data}" alt="{escape(title)}">'
