"""One HTML file that tells a curation: it holds its pictures and styles, and asks for nothing from anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float

from components.curation.audit import AuditParams, Curation
from components.curation.checks import image_names
from components.curation.clusters import TrainingClusters
from components.curation.expectations import Row
from components.curation.funnel import Step
from components.curation.page import sections
from components.curation.page.gallery import Gallery
from components.curation.page.markup import Html, tag
from components.curation.page.style import STYLE
from components.curation.pictures import spread
from components.curation.projection import principal_plane
from components.data.reading import Reader

LINKS = {
    "summary": "what and why",
    "quarantine": "quarantine",
    "duplicates": "near-duplicates",
    "leaks": "leaks",
    "retrieval": "retrieval",
    "clusters": "clusters",
    "map": "before and after",
    "checks": "checks",
}


@dataclass(frozen=True)
class Story:
    """What the page tells beside the curation itself."""

    steps: list[Step]
    sets: pa.Table
    """Account of every set of queries; see `SetAccount`."""
    neighbours: pa.Table
    """`set`, `query`, `neighbour`, `rank`, `similarity`."""
    clusters: TrainingClusters
    """Of the images of `Curation.groups`, in their order."""
    reports: Sequence[tuple[str, Sequence[dict[str, object]]]]
    """Name of each suite and its results."""


def render(curation: Curation, story: Story, reader: Reader, params: AuditParams) -> str:
    """Make the page; the same tables give the same text.

    Args:
        curation: what the stages before have written.
        story: what was made of it.
        reader: gives the bytes of an image.
        params: how much is shown.
    """
    gallery = Gallery(reader, image_names(curation.manifest))
    ids, fates = _fates(curation)
    left_out = [one for one, fate in zip(ids, fates, strict=True) if fate == "left"]
    shown = spread(range(len(ids)), params.points)
    evaluation = set(curation.manifest.ids("eval"))
    parts = (
        sections.summary(story.steps),
        sections.quarantine(*_quarantined(curation)),
        sections.duplicates(curation.groups, curation.pairs, gallery, params.examples),
        sections.leaks(curation.groups, curation.pairs, evaluation, gallery, params.examples),
        sections.retrieval(story.sets, story.neighbours, left_out, gallery, params.examples),
        sections.clusters(story.clusters, gallery),
        sections.maps(principal_plane(training_vectors(curation, shown)), [fates[row] for row in shown], len(ids)),
        sections.checks(story.reports),
    )
    links = tag("nav", *(tag("a", text, href=f"#{name}") for name, text in LINKS.items()))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", "Curation"),
        tag("style", Html(STYLE)),
    )
    body = tag("body", tag("header", tag("h1", "Curation"), links), tag("main", *parts))
    return "<!DOCTYPE html>\n" + tag("html", head, body, lang="en") + "\n"


def training_vectors(curation: Curation, rows: Sequence[int] | None = None) -> Float[np.ndarray, "some dim"]:
    """Vectors of images of `Curation.groups`: of those in some rows, or of all in their order."""
    place = {one: number for number, one in enumerate(curation.ids)}
    ids = curation.groups["id"] if rows is None else curation.groups["id"].take(rows)
    vectors: Float[np.ndarray, "some dim"] = curation.vectors[[place[one] for one in ids.to_pylist()]]
    return vectors


def _fates(curation: Curation) -> tuple[list[str], list[str]]:
    """Ids of the images that deduplication saw, and what became of each, a key of `sections.FATES`."""
    chosen = set(curation.curated)
    ids, reasons = curation.groups["id"].to_pylist(), curation.groups["reason"].to_pylist()
    return ids, [
        reason if reason in ("duplicate", "leak") else "stays" if one in chosen else "left"
        for one, reason in zip(ids, reasons, strict=True)
    ]


def _quarantined(curation: Curation) -> tuple[list[tuple[str, Row]], int]:
    """Reason and image of all that do not decode, and how many of them are of the evaluation part only."""
    manifest = curation.manifest
    names = image_names(manifest)
    gone = manifest.images.filter(pc.not_equal(manifest.images["status"], "ok"))
    reasons = pc.coalesce(gone["reason"], gone["status"]).to_pylist()
    training = set(manifest.sources.filter(pc.equal(manifest.sources["split"], "train"))["id"].to_pylist())
    rows = [
        (reason, Row(names.get(one, one), one)) for one, reason in zip(gone["id"].to_pylist(), reasons, strict=True)
    ]
    return rows, sum(row.id not in training for _, row in rows)
