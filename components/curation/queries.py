"""The images one cares about, in sets: evaluation images without their labels."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int
from pydantic import Field

from components.curation.evaluation_sets import matched
from components.data.manifest import Manifest
from components.errors import UserError
from components.parameters import Params

ALL = "evaluation"
"""Name of the one set where none is named."""


class QuerySet(Params):
    """Evaluation images that are accounted for together."""

    match: str | None = Field(
        None,
        description="pattern of the names of its images in their source, such as pets/*; null: NAME/*, those of the "
        "evaluation source of that name",
    )
    mode: Literal["knn", "clusters"] | None = Field(
        None, description="how its images are retrieved; null: as retrieve.mode. DINOv2 takes knn for large sets"
    )
    cap: int | None = Field(None, ge=1, description="images that it brings in at most; null: retrieve.cap")

    def images(self, name: str) -> str:
        """What the names of the images of the set of that name match."""
        return self.match or f"{name}/*"


class Brought(NamedTuple):
    """What one set of queries brings in."""

    rows: Int[np.ndarray, " chosen"]
    """Positions of the images, rising."""
    available: int
    """Images that it would bring in without its cap."""
    clusters: int = 0
    """Clusters with votes enough."""


def draw_queries(ids: Sequence[str], count: int, seed: int) -> list[str]:
    """Draw up to `count` ids, sorted: those of the smallest hashes, so that new images change few of them."""
    ranked = sorted(ids, key=lambda one: hashlib.sha256(f"{seed}:{one}".encode()).digest())
    return sorted(ranked[:count])


def query_sets(manifest: Manifest, sets: Mapping[str, QuerySet], count: int, seed: int) -> dict[str, list[str]]:
    """Draw the queries of every set.

    Args:
        manifest: names the evaluation images.
        sets: by name; an image may be in several. Empty: all evaluation images are one set, `evaluation`.
        count: queries of a set at most.
        seed: of the draw.

    Raises:
        UserError: if no evaluation image is in a set.
    """
    readable = manifest.ids("eval")
    if not sets:
        return {ALL: draw_queries(readable, count, seed)}
    known = set(readable)
    patterns = [one.images(label) for label, one in sets.items()]
    rows = [row for row in matched(manifest.sources, patterns) if row[0] in known]
    found = {}
    for place, (label, pattern) in enumerate(zip(sets, patterns, strict=True)):
        members = sorted({image for image, _, hits in rows if hits[place]})
        if not members:
            example = f", such as '{rows[0][1]}'" if rows else ""
            raise UserError(
                f"retrieve.sets.{label}.match '{pattern}' fits none of the {len(rows)} evaluation images",
                remedy=f"give a pattern of their names{example}",
            )
        found[label] = draw_queries(members, count, seed)
    return found
