"""The model card of a released backbone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.models.backbone import Backbone

ROWS = {"teacher": "teacher", "student": "student", "untrained": "untrained backbone", "pixels": "raw pixels"}
COLUMNS = {"knn.top1": "kNN top-1", "linear.top1": "linear top-1"}
LABEL_FREE = {"effective_rank": "effective rank"}


@dataclass(frozen=True)
class DataSummary:
    """Numbers of images."""

    train: int
    """Readable images of the training source."""
    kept: int
    """Of those, without near-duplicates and evaluation leaks."""
    curated: int
    """Of those, trained on."""
    evaluation: int
    """Readable images of the evaluation part."""
    quarantined: int
    """Files that no image could be read from."""
    classes: int
    """Labels in the evaluation part."""


def evaluation_table(metrics: Mapping[str, float]) -> str:
    """Scores as a Markdown table; rows and columns without any are left out.

    Args:
        metrics: those of the stage `evaluate`, shares in 0..1 with `.low` and `.high`.
    """
    columns = {key: head for key, head in {**COLUMNS, **LABEL_FREE}.items() if _any(metrics, key)}
    rows = [(label, [_cell(metrics, f"{name}.{key}", key) for key in columns]) for name, label in ROWS.items()]
    lines = [f"| features | {' | '.join(columns.values())} |", "|---" + "|---:" * len(columns) + "|"]
    lines += [f"| {label} | {' | '.join(cells)} |" for label, cells in rows if any(cells)]
    return "\n".join(lines)


def model_card(
    backbone: Backbone, *, name: str, lineage: Mapping[str, Any], metrics: Mapping[str, float], data: DataSummary
) -> str:
    """The card in Markdown: a pure function of its arguments.

    Args:
        backbone: the released weights.
        name: of the registered model.
        lineage: content of `lineage.json`.
        metrics: of the stage `evaluate`.
        data: numbers of images.
    """
    config, preprocess = backbone.config, backbone.preprocess
    weights = sum(one.numel() for one in backbone.model.parameters())
    return f"""---
library_name: selfsight
pipeline_tag: image-feature-extraction
tags: [vision, self-supervised, vit]
---

# {name}: ViT {config.name}, {lineage["role"]}

A vision transformer trained on images without labels. It turns an image into a vector for search, clustering and
classification, and into one vector for each patch of {config.patch_size} × {config.patch_size} pixels.

| | |
|---|---|
| architecture | width {config.width}, {config.depth} blocks, {config.heads} heads, {config.registers} registers |
| parameters | {weights:,} |
| input | RGB; shorter side to {preprocess.resize} pixels, then the centre, {preprocess.image_size} pixels a side |
{_training_rows(lineage)}

## Use

```python
from components.features.extraction import extract
from components.models.backbone import load_backbone

backbone = load_backbone("models:/{name}@champion")  # or the folder of this file
```

## Evaluation

{_evaluation(metrics, data)}

## Data

| | images |
|---|---:|
| training source, readable | {data.train:,} |
| without near-duplicates and leaks | {data.kept:,} |
| trained on | {data.curated:,} |
| evaluation part | {data.evaluation:,} |
| unreadable, set aside | {data.quarantined:,} |

No label was used in training.

## Intended use and limits

Meant as a frozen feature extractor for images like those it was trained on, and as a starting point for fine-tuning.
Features carry whatever bias the images carry. On images of another kind, measure first; on decisions about people, do
not rely on it. The scores above hold for the evaluation part only.

## Lineage

| | |
|---|---|
| parameters | `{lineage["parameters_sha256"]}` |
| images trained on | `{lineage["curated"]["sha256"]}` |
| teacher | `{lineage["teacher_sha256"]}` |
{_dependency_rows(lineage)}

`lineage.json` holds the parameters themselves. Hashes of folders are those of DVC: `dvc pull` of the commit whose
`dvc.lock` names them brings back the very files.
"""


def _training_rows(lineage: Mapping[str, Any]) -> str:
    stage = "pretrain" if lineage["role"] == "teacher" else "distill"
    section = lineage["parameters"].get(stage, {})
    method = section.get("method", "distillation of the teacher") if stage == "distill" else section.get("method", "")
    known = {
        "method": method,
        "epochs": section.get("epochs"),
        "steps": section.get("steps"),
        "batch size": section.get("batch_size"),
        "seed": section.get("seed"),
    }
    return "\n".join(f"| {title} | {value} |" for title, value in known.items() if value not in (None, ""))


def _evaluation(metrics: Mapping[str, float], data: DataSummary) -> str:
    if not any(_any(metrics, key) for key in (*COLUMNS, *LABEL_FREE)):
        return "Not evaluated."
    if any(_any(metrics, key) for key in COLUMNS):
        note = (
            f"Frozen features, {data.classes} classes, {data.evaluation:,} images that were not trained on; kNN with"
            " k = 20; 95 % intervals in brackets. *Untrained backbone*: the same architecture, random weights."
        )
    else:
        note = "The evaluation part has no labels, so that there is nothing to score."
    return f"{evaluation_table(metrics)}\n\n{note}"


def _dependency_rows(lineage: Mapping[str, Any]) -> str:
    return "\n".join(f"| `{path}` | `{digest}` |" for path, digest in lineage["dependencies"].items())


def _any(metrics: Mapping[str, float], key: str) -> bool:
    return any(f"{name}.{key}" in metrics for name in ROWS)


def _cell(metrics: Mapping[str, float], name: str, key: str) -> str:
    value = metrics.get(name)
    if value is None:
        return ""
    if key in LABEL_FREE:
        return f"{value:.1f}"
    low, high = metrics.get(f"{name}.low"), metrics.get(f"{name}.high")
    interval = f" ({100 * low:.1f}–{100 * high:.1f})" if low is not None and high is not None else ""
    return f"{100 * value:.1f} %{interval}"
