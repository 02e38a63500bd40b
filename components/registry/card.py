"""The model card of a released backbone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.features.score_table import markdown_table
from components.models.backbone import Backbone


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


def model_card(
    backbone: Backbone, *, lineage: Mapping[str, Any], metrics: Mapping[str, float], data: DataSummary
) -> str:
    """The card in Markdown: a pure function of its arguments.

    Args:
        backbone: the released weights.
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

# ViT {config.name}, {lineage["role"]}

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

backbone = load_backbone("…")  # the folder of this file, models:/NAME@champion, or s3://BUCKET/PREFIX
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
| curated with | {lineage["embedder"].get("version", "")} |
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
    table = markdown_table(metrics)
    if not table:
        return "Not evaluated."
    if any(name.endswith(".top1") for name in metrics):
        note = (
            f"Frozen features, {data.classes} classes, {data.evaluation:,} images that were not trained on. Shares in\n"
            "percent with 95 % intervals. *Untrained backbone*: the same architecture with random weights."
        )
    else:
        note = "The evaluation part has no labels, so that there is nothing to score."
    return f"{table}\n\n{note}"


def _dependency_rows(lineage: Mapping[str, Any]) -> str:
    return "\n".join(f"| `{path}` | `{digest}` |" for path, digest in lineage["dependencies"].items())
