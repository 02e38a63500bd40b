"""Copies and leaks planted in real images: how many of them curation finds, by transformation.

The transformations are those of the generator `scenes`; nothing was tuned on these images. Not one of the numbered
targets: `python -m benchmarks.curation_quality`.
"""

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.report import RESULTS, machine
from benchmarks.workbench import fresh_clone, real_data, selfsight
from components.curation.scoring import score_deduplication
from components.data.scenes.planting import TRANSFORMS, plant
from components.data.tables import read_table

PRECISION, RECALL = 0.98, 0.80
QUALITY = 95
"""JPEG quality that planted pictures are stored with, on top of what was done to them."""
SETS = {"cifar10": ("cifar10/train.tar", "cifar10/test.tar", 70, 10), "photos": ("photos/photos.tar", None, 8, 1)}
"""Tar of training images, tar of evaluation images, copies and leaks planted of each transformation."""
EVALUATION_SHARE = 10
"""Where there is no evaluation tar, every so many-th image is for evaluation."""


def main() -> None:
    """Plants, curates and reports, one set after the other."""
    results = [measure(name, *values) for name, values in SETS.items()]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "curation_quality.json").write_text(json.dumps(results, indent=2) + "\n")
    for result in results:
        print(json.dumps(result))


def measure(name: str, train: str, evaluation: str | None, copies: int, leaks: int) -> dict[str, Any]:
    """Curates one set with planted copies in a fresh clone and scores it."""
    with tempfile.TemporaryDirectory(prefix="selfsight-planted-") as temporary, fresh_clone() as clone:
        folder, truth = Path(temporary), []
        originals = list(members(real_data() / train))
        queries = list(members(real_data() / evaluation)) if evaluation else originals[::EVALUATION_SHARE]
        if not evaluation:
            originals = [one for number, one in enumerate(originals) if number % EVALUATION_SHARE]
        for number, (path, data) in enumerate(originals):
            truth.append(write(folder / "train" / f"{number:06d}{Path(path).suffix}", data, "train", "image"))
        for number, (path, data) in enumerate(queries):
            truth.append(write(folder / "eval" / f"{number:06d}{Path(path).suffix}", data, "eval", "image"))
        for kind, count, start in (("copy", copies, 0), ("leak", leaks, len(originals))):
            truth += planted(folder, kind, count, [*originals, *queries][start:], truth[start:])
        sources = ("--data", str(folder / "train"), "--eval", str(folder / "eval"))
        selfsight(clone, "run", "curate", *sources, "--set", "retrieve.mode=all")
        groups = read_table(clone / "data" / "dedup" / "groups.parquet")
    scores = score_deduplication(groups, pa.Table.from_pylist(truth))
    return {
        "target": f"copies planted in {name}",
        "what": "recall of planted copies, built-in descriptor",
        "ratio": round(scores["recall"], 4),
        "bound": f">= {RECALL}, precision >= {PRECISION} where nothing but what was planted is a copy",
        "holds": scores["recall"] >= RECALL,
        "machine": machine(),
        "images": len(originals),
        "planted": {"copies": copies * len(TRANSFORMS), "leaks": leaks * len(TRANSFORMS)},
        "pairs_that_nobody_planted": unplanted(groups, truth),
        "scores": {key: round(value, 4) for key, value in scores.items()},
    }


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of the images of a tar, by name."""
    with tarfile.open(path) as archive:
        for member in sorted((one for one in archive if one.isfile()), key=lambda one: one.name):
            file = archive.extractfile(member)
            if file is not None and member.name.endswith((".jpg", ".jpeg", ".JPEG", ".png")):
                yield member.name, file.read()


def planted(
    folder: Path, kind: str, count: int, images: list[tuple[str, bytes]], truth: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Writes `count` copies by each transformation, each of another image."""
    rng = np.random.default_rng([0, len(kind)])
    chosen = iter(rng.permutation(len(images)))
    rows = []
    for transform in TRANSFORMS if count else ():
        for number in range(count):
            index = int(next(chosen))
            picture, _ = plant(Image.open(io.BytesIO(images[index][1])), rng, transform)
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=QUALITY)
            path = folder / "train" / f"{kind}-{transform}-{number:03d}.jpg"
            rows.append(write(path, buffer.getvalue(), "train", kind, truth[index]["name"], transform))
    return rows


def write(
    path: Path, data: bytes, split: str, kind: str, original: str | None = None, transform: str | None = None
) -> dict[str, Any]:
    """Writes a file and returns its row of the truth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {
        "id": hashlib.sha256(data).hexdigest(),
        "name": f"{split}/{path.name}",
        "split": split,
        "kind": kind,
        "original": original,
        "transform": transform,
        "negative_kind": None,
    }


def unplanted(groups: pa.Table, truth: list[dict[str, Any]]) -> int:
    """Pairs that were put together although neither comes from the other: copies of the set's own, or mistakes."""
    family = {row["id"]: row["original"] or row["name"] for row in truth}
    found: dict[str, set[str]] = {}
    for one, component in zip(groups["id"].to_pylist(), groups["component"].to_pylist(), strict=True):
        found.setdefault(component, set()).add(family[one])
    return sum(len(families) * (len(families) - 1) // 2 for families in found.values())


if __name__ == "__main__":
    main()
