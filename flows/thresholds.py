"""`selfsight thresholds`: what thresholds of deduplication would do to the images at hand."""

from pathlib import Path

import numpy as np

from components.curation.deduplication import DedupParams
from components.curation.embedder import read_embedder_lock
from components.curation.embedding import Describe
from components.curation.known_pairs import Described, Measure, labelled_pairs, planted_pairs
from components.curation.thresholds import ScoredPairs, curve, draw_curve, recall_by_transform, suggest
from components.data.forgotten import read_forgotten, usable
from components.data.manifest import Manifest
from components.data.shard_access import open_shards
from components.data.tables import read_table
from components.settings import Settings
from components.stages import paths
from components.stages.params import PipelineParams

SHOWN = 5
"""Rows above and below the suggestion that are shown."""


def measure_pairs(
    params: PipelineParams, settings: Settings, measure: Measure | None, pairs: Path | None, images: int
) -> tuple[Measure, ScoredPairs]:
    """Measures labelled pairs, or plants copies in the images of the last `embed`.

    Args:
        params: all parameters.
        settings: where things are.
        measure: what to hold thresholds against; None: as `dedup.measure`.
        pairs: CSV file of labelled pairs; None plants.
        images: how many images to plant copies of.

    Raises:
        UserError: if there is no manifest, no embedding or no list of forgotten images, or a labelled pair is not
            understood.
    """
    chosen: Measure = measure or params.dedup.measure
    forgotten = read_forgotten(settings.root / paths.FORGOTTEN_LOCK)
    manifest = usable(Manifest.load(settings.root / paths.MANIFEST), forgotten)
    lock = read_embedder_lock(settings.root / paths.EMBEDDER_LOCK)
    with open_shards(settings.root / paths.SHARDS, manifest.locations, settings) as reader:
        describe = Describe(lock, reader, params.embed.batch_size, settings.torch_device())
        if pairs is not None:
            return chosen, labelled_pairs(pairs, _names(manifest), reader, describe, chosen)
        described = _described(settings.root, set(manifest.ids("train")))
        dedup: DedupParams = params.dedup
        return chosen, planted_pairs(reader, described, describe, measure=chosen, images=images, params=dedup)


def write_report(measure: Measure, pairs: ScoredPairs, precision: float, folder: Path) -> list[str]:
    """Writes table, picture and pairs, and returns what to show.

    Args:
        measure: what the thresholds are held against.
        pairs: with their scores.
        precision: wanted.
        folder: to write to.
    """
    from pyarrow import csv

    folder.mkdir(parents=True, exist_ok=True)
    table = curve(pairs)
    best = suggest(table, precision)
    csv.write_csv(table, folder / "thresholds.csv")
    csv.write_csv(pairs.table(), folder / "pairs.csv")
    draw_curve(table, folder / "thresholds.png", measure=measure, suggested=best["threshold"] if best else None)
    lines = [f"{measure} of {int(pairs.same.sum())} pairs of copies and {int((~pairs.same).sum())} pairs of others"]
    if best is None:
        lines.append(f"no threshold has a precision of {precision}; {folder / 'pairs.csv'} names what it fails on")
    else:
        lines += _rows(table.to_pylist(), best["threshold"])
        lines.append(f"suggested for precision {precision}: {best['threshold']:.2f}, recall {best['recall']:.3f}")
        by_transform = recall_by_transform(pairs, best["threshold"])
        lines += [f"  {name:<16} recall {share:.2f}" for name, share in by_transform.items()]
    return [*lines, f"wrote {folder}/thresholds.csv, thresholds.png and pairs.csv"]


def _rows(rows: list[dict[str, float]], centre: float) -> list[str]:
    at = next(number for number, row in enumerate(rows) if row["threshold"] == centre)
    shown = ["threshold  precision  recall  other pairs"]
    for row in rows[max(0, at - SHOWN) : at + SHOWN + 1]:
        precision = "        -" if row["precision"] is None else f"{row['precision']:9.4f}"
        shown.append(f"{row['threshold']:9.2f}  {precision}  {row['recall']:6.3f}  {int(row['others']):11d}")
    return shown


def _names(manifest: Manifest) -> dict[str, str]:
    """Id of each image, by id and by name in the source."""
    ids = manifest.ids()
    known = set(ids)
    rows = zip(manifest.sources["name"].to_pylist(), manifest.sources["id"].to_pylist(), strict=True)
    return {name: one for name, one in rows if one in known} | {one: one for one in ids}


def _described(root: Path, training: set[str]) -> Described:
    ids = read_table(root / paths.EMBEDDINGS / "ids.parquet")["id"].to_pylist()
    vectors = np.load(root / paths.EMBEDDINGS / "embeddings.npy", mmap_mode="c")
    rows = [row for row, one in enumerate(ids) if one in training]
    return Described([ids[row] for row in rows], vectors[rows])
