"""A small curation as the stages before the audit leave it, for tests."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from components.curation.audit import Curation
from components.data.manifest import IMAGES, SOURCES, Manifest
from components.data.shards import LOCATIONS
from tests.textures import Files, jpeg, texture

REASONS = (
    *["unique"] * 30, "representative", "duplicate", "duplicate", "representative", "duplicate", "leak", "leak",
)  # fmt: skip
"""Of the training images, in the order in which they are made."""
EVALUATION = 4


@dataclass(frozen=True)
class Made:
    """A curation, and the bytes of its images."""

    curation: Curation
    reader: Files
    ids: list[str]
    """Of the images as they are made: training images, then evaluation images, then broken ones."""


def digest(name: str) -> str:
    """An id."""
    return hashlib.sha256(name.encode()).hexdigest()


def make(*, left_out: int = 5, broken: int = 2, name: str = "{split}/{number}.jpg") -> Made:
    """37 training images in two groups of copies with two leaks, four evaluation images, and some broken files.

    Args:
        left_out: images that retrieval leaves out.
        broken: quarantined files; one more file has the bytes of the first image.
        name: pattern of names.
    """
    training = len(REASONS)
    total = training + EVALUATION + broken
    splits = ["eval" if training <= number < training + EVALUATION else "train" for number in range(total)]
    names = [name.format(split=split, number=number) for number, split in enumerate(splits)]
    ids = [digest(one) for one in names]
    readable = sorted(ids[: training + EVALUATION])
    images: list[dict[str, Any]] = [
        {"id": one, "format": "JPEG", "width": 96, "height": 72, "phash": 7, "status": "ok", "reason": None}
        for one in ids
    ]
    for row in images[training + EVALUATION :]:
        row |= {"phash": None, "status": "quarantined", "reason": "truncated"}
    rows = [*zip(ids, names, splits, strict=True), (ids[0], f"again/{names[0]}", "train")]
    sources = [{"id": one, "uri": f"folder/{name}", "name": name, "split": split} for one, name, split in rows]
    locations = [{"id": one, "shard": "shard-000000.tar", "offset": 0, "nbytes": 9} for one in readable]
    curation = Curation(
        manifest=Manifest(
            pa.Table.from_pylist(images, schema=IMAGES).sort_by("id"),
            pa.Table.from_pylist(sources, schema=SOURCES).sort_by("id"),
            pa.Table.from_pylist(locations, schema=LOCATIONS),
        ),
        ids=readable,
        vectors=_vectors(readable),
        groups=_groups(ids[:training]),
        pairs=_pairs(ids),
        curated=sorted([*ids[left_out:31], ids[33]]),
    )
    files = Files({one: jpeg(texture(number)) for number, one in enumerate(ids[: training + EVALUATION])})
    return Made(curation, files, ids)


def _vectors(ids: list[str]) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(len(ids), 16)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _groups(ids: list[str]) -> pa.Table:
    components = [*range(30), 30, 30, 30, 33, 33, 35, 36]
    rows = [
        {
            "id": ids[number],
            "component": ids[component],
            "kept": REASONS[number] in ("unique", "representative"),
            "reason": REASONS[number],
        }
        for number, component in enumerate(components)
    ]
    return pa.Table.from_pylist(rows).sort_by("id")


def _pairs(ids: list[str]) -> pa.Table:
    evaluation = len(REASONS)
    found = [(30, 31, 0.9), (31, 32, 0.8), (33, 34, 0.95), (35, evaluation, 0.85), (36, evaluation + 1, 0.75)]
    return pa.Table.from_pylist(
        [{"first": ids[a], "second": ids[b], "agreement": value, "mirrored": False} for a, b, value in found]
    )
