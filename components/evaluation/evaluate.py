"""All protocols over all models, on one split."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from components.data.manifest import Manifest
from components.data.reading import Reader
from components.evaluation.pictures import neighbour_gallery, patch_components
from components.evaluation.pixels import pixel_features
from components.evaluation.report import EvaluateParams, write_page
from components.evaluation.scores import knn_scores, label_free_scores, linear_scores
from components.evaluation.split import LabelledSplit, labelled_split
from components.features.extraction import Features, extract
from components.models.backbone import Backbone
from components.models.vit import VisionTransformer

DIGITS = 6
"""Decimals of a metric: what follows depends on the order of sums, that is on the number of threads."""


def evaluate(
    models: Mapping[str, Backbone],
    manifest: Manifest,
    kept: Sequence[str],
    reader: Reader,
    params: EvaluateParams,
    folder: Path,
    *,
    device: str,
) -> dict[str, float]:
    """Scores every model, the untrained teacher and raw pixels; writes the page and its pictures.

    Args:
        models: `teacher` and `student`.
        manifest: labels and parts.
        kept: training images that deduplication kept.
        reader: gives the bytes of an image.
        params: protocols.
        folder: existing folder for index.html and the pictures.
        device: where features are extracted.

    Returns:
        Flat metrics. Without labels, those that need them are absent.
    """
    split = labelled_split(manifest, set(kept), seed=params.seed)
    queries = split.queries if split else tuple(manifest.ids("eval"))
    bank = split.bank if split else tuple(sorted(kept))
    metrics: dict[str, float] = {"images.queries": float(len(queries)), "images.bank": float(len(bank))}
    if split:
        metrics["classes"] = float(len(split.classes))
    everyone = {**models, "untrained": _untrained(models["teacher"], params.seed)}
    gallery: dict[str, Features] = {}
    for name, backbone in everyone.items():
        asked = features_of(backbone, reader, queries, params, device, f"{name}: queries")
        scores = label_free_scores(asked)
        if split or name == "teacher":
            known = features_of(backbone, reader, bank, params, device, f"{name}: bank")
            if name == "teacher":
                gallery = {"queries": asked, "bank": known}
        if split:
            scores |= knn_scores(known.last, asked.last, split)
            scores |= linear_scores(known, asked, split, params.linear, seed=params.seed)
        metrics |= {f"{name}.{score}": value for score, value in scores.items()}
    if split:
        pixels = knn_scores(pixel_features(reader, bank), pixel_features(reader, queries), split)
        metrics |= {f"pixels.{score}": value for score, value in pixels.items()}
    pictures = _pictures(models["teacher"], gallery, split, bank, queries, reader, params, folder)
    metrics = {name: round(value, DIGITS) for name, value in metrics.items()}
    write_page(metrics, pictures, folder / "index.html")
    return metrics


def features_of(
    backbone: Backbone, reader: Reader, ids: Sequence[str], params: EvaluateParams, device: str, description: str
) -> Features:
    """Features of images as every score is computed on, in the order of the ids."""
    return extract(
        backbone.model,
        reader,
        ids,
        backbone.preprocess,
        batch_size=params.batch_size,
        device=device,
        description=description,
    )


def _untrained(teacher: Backbone, seed: int) -> Backbone:
    """The same architecture with the weights that training starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VisionTransformer(teacher.config).eval()
    return Backbone(model, teacher.config, teacher.preprocess, lineage={}, digest="")


def _pictures(
    teacher: Backbone,
    gallery: Mapping[str, Features],
    split: LabelledSplit | None,
    bank: Sequence[str],
    queries: Sequence[str],
    reader: Reader,
    params: EvaluateParams,
    folder: Path,
) -> list[tuple[str, str]]:
    shown = _spread(len(queries), params.pictures)
    if not shown:
        return []
    ids = [queries[index] for index in shown]
    patch_components(teacher.model.cpu(), reader, ids, teacher.preprocess, folder / "patches.png")
    labels = [split.classes[split.query_labels[index]] if split else None for index in shown]
    bank_labels = [split.classes[label] for label in split.bank_labels] if split else [None] * len(bank)
    asked = gallery["queries"].last[torch.tensor(shown)]
    neighbour_gallery(asked, ids, labels, gallery["bank"].last, bank, bank_labels, reader, folder / "neighbours.png")
    return [
        ("What the teacher sees: principal components of its patch features", "patches.png"),
        ("Each row: a query, then its nearest neighbours", "neighbours.png"),
    ]


def _spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` indices, evenly over `count`."""
    wanted = min(count, wanted)
    return [index * count // wanted for index in range(wanted)]
