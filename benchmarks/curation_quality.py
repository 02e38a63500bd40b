"""Copies and leaks planted in real images: how many of them curation finds, by transformation.

The transformations are those of the generator `scenes`. The weights of the descriptor were chosen on other copies in
CIFAR-10 and CamVid; nothing was tuned on the photos. Not one of the numbered targets:
`python -m benchmarks.curation_quality`.

With `--curves` only: precision and recall against the threshold, as `selfsight thresholds` shows them, without a
pipeline; the pictures go to docs/assets. `--embedder FOLDER` takes a trained backbone instead of the built-in
descriptor, and draws nothing. With `--tiny`, on few images.
"""

import csv
import hashlib
import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.report import RESULTS, machine
from benchmarks.workbench import ROOT, fresh_clone, real_data, selfsight
from components.curation.deduplication import DedupParams
from components.curation.embedder import BUILTIN, EmbedderLock
from components.curation.embedding import Describe
from components.curation.known_pairs import Described, planted_pairs
from components.curation.scoring import score_deduplication
from components.curation.thresholds import curve, draw_curve, recall_by_transform, suggest
from components.data.scenes.planting import TRANSFORMS, plant
from components.data.tables import read_table
from components.features.descriptor import descriptor_name
from components.models.backbone import artifact_hash

PRECISION, RECALL, TRAINED_RECALL = 0.99, 0.90, 0.95
QUALITY = 95
"""JPEG quality that planted pictures are stored with, on top of what was done to them."""
SETS = {"cifar10": ("cifar10/train.tar", "cifar10/test.tar", 70, 10), "photos": ("photos/photos.tar", None, 8, 1)}
"""Tar of training images, tar of evaluation images, copies and leaks planted of each transformation."""
CURVE_IMAGES = 4000
"""Images of a set that the neighbours of a curve are looked for in; copies are planted in up to 500 of them."""
TINY = "--tiny" in sys.argv
EMBEDDER = sys.argv[sys.argv.index("--embedder") + 1] if "--embedder" in sys.argv else None
"""Folder of a trained backbone."""
JUDGED = Path(__file__).with_name("judged_pairs.csv")
"""Pairs of CIFAR-10 as it is, with a verdict by eye."""
EVALUATION_SHARE = 10
"""Where there is no evaluation tar, every so many-th image is for evaluation."""


def main() -> None:
    """Plants, curates and reports, one set after the other."""
    if "--curves" in sys.argv:
        found = [curves(name, train) for name, (train, *_) in SETS.items()]
        if not TINY:
            RESULTS.mkdir(exist_ok=True)
            name = "curation_curves_backbone" if EMBEDDER else "curation_curves"
            (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")
        for one in found:
            print(json.dumps({key: value for key, value in one.items() if key != "measures"}))
        return
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
        rows = (truth[: len(originals)], truth[len(originals) :])
        for kind, count, some, their in zip(("copy", "leak"), (copies, leaks), (originals, queries), rows, strict=True):
            truth += planted(folder, kind, count, some, their)
        sources = ("--data", str(folder / "train"), "--eval", str(folder / "eval"))
        selfsight(clone, "run", "curate", *sources, "--set", "retrieve.mode=all")
        groups = read_table(clone / "data" / "dedup" / "groups.parquet")
    scores = score_deduplication(groups, pa.Table.from_pylist(truth))
    others = unplanted(groups, truth)
    precision = with_own_copies(name, scores["precision"], others)
    return {
        "target": f"copies planted in {name}",
        "what": "recall of planted copies, built-in descriptor",
        "ratio": round(scores["recall"], 4),
        "bound": f">= {RECALL}, precision >= {PRECISION}",
        "holds": scores["recall"] >= RECALL and precision >= PRECISION,
        "machine": machine(),
        "images": len(originals),
        "planted": {"copies": copies * len(TRANSFORMS), "leaks": leaks * len(TRANSFORMS)},
        "pairs_that_nobody_planted": others,
        "precision_with_own_copies": round(precision, 4),
        "scores": {key: round(value, 4) for key, value in scores.items()},
    }


def with_own_copies(name: str, precision: float, others: int) -> float:
    """Precision where pairs that nobody planted are right as often as those that somebody looked at, see `own_copies`.

    Args:
        name: of the set.
        precision: over what was planted; the pairs that nobody planted count as wrong.
        others: those pairs.
    """
    if name != "cifar10" or precision == 1:
        return precision
    planted, judged = others * precision / (1 - precision), verdicts()
    return (planted + others * judged.count("same") / len(judged)) / (planted + others)


def verdicts() -> list[str]:
    """What somebody saw in pairs that CIFAR-10 holds of itself: `same`, `doubtful` or `other`."""
    with JUDGED.open(newline="") as file:
        return [row["verdict"] for row in csv.DictReader(file)]


def curves(name: str, train: str) -> dict[str, Any]:
    """Precision and recall by threshold of both measures in one set, copies planted; draws them."""
    files = {f"{number:06d}": data for number, (_, data) in enumerate(members(real_data() / train))}
    step = max(1, len(files) // (60 if TINY else CURVE_IMAGES))
    reader = InMemory({one: files[one] for one in list(files)[::step]})
    lock = EmbedderLock(EMBEDDER, "", artifact_hash(Path(EMBEDDER))) if EMBEDDER else None
    describe = Describe(lock or EmbedderLock(BUILTIN, descriptor_name(), ""), reader, 256, "cpu")
    described = Described(list(reader.files), describe(list(reader.files)))
    measures = {}
    for measure in ("agreement", "cosine"):
        pairs = planted_pairs(
            reader, described, describe, measure=measure, images=20 if TINY else 500, params=DedupParams()
        )
        table = curve(pairs)
        best = suggest(table, PRECISION)
        at = DedupParams().threshold if measure == "agreement" else best["threshold"] if best else 1.0
        if not TINY and not EMBEDDER:
            picture = ROOT / "docs" / "assets" / f"thresholds-{name}-{measure}.png"
            draw_curve(table, picture, measure=measure, suggested=best and best["threshold"])
        measures[measure] = {
            "copies": int(pairs.same.sum()),
            "others": int((~pairs.same).sum()),
            "suggested": best,
            "recall_by_transform_at": at,
            "recall_by_transform": {key: round(one, 4) for key, one in recall_by_transform(pairs, at).items()},
            "curve": [
                [row["threshold"], row["precision"], round(row["recall"], 4), row["others"]]
                for row in table.to_pylist()
                if row["threshold"] >= 0.5
            ],
        }
    best = measures["agreement"]["suggested"]
    embedder, bound = ("a trained backbone", TRAINED_RECALL) if EMBEDDER else ("built-in descriptor", RECALL)
    return {
        "target": f"threshold in {name}",
        "what": f"recall of agreement where precision is {PRECISION}, {embedder}",
        "ratio": round(best["recall"], 4) if best else 0.0,
        "bound": f">= {bound}",
        "holds": bool(best and best["recall"] >= bound),
        "machine": machine(),
        "images": len(reader.files),
        "measures": measures,
    }


class InMemory:
    """Files by id."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files

    def read(self, image_id: str) -> bytes:
        return self.files[image_id]

    def prefetch(self, image_ids: list[str]) -> None:
        """All are in memory already."""


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
    rng = np.random.default_rng(list(kind.encode()))  # another draw for copies than for leaks
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
