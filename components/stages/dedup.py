"""Near-duplicates and leaks out."""

import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.curation.candidates import candidate_pairs
from components.curation.copies import FINE_SIDE, compare
from components.curation.deduplication import DedupParams, choose, copy_components, pair_table, sharpness
from components.curation.pictures import duplicate_sheet, leak_sheet
from components.curation.scoring import score_deduplication
from components.data.decoding import decode_rgb
from components.data.manifest import Manifest
from components.data.shard_access import open_shards
from components.data.tables import read_table, write_table
from components.features.thumbnails import Reader, load_thumbnails
from components.stages import paths
from components.stages.publish import publish
from components.stages.runner import StageContext, execute

SHARPNESS_SIDE = 256


def run(params: DedupParams, context: StageContext) -> dict[str, float]:
    """Groups the training images, keeps one of each group, drops what leaks; scores it where there is truth."""
    manifest = Manifest.load(paths.MANIFEST)
    ids = read_table(paths.EMBEDDINGS / "ids.parquet")["id"].to_pylist()
    vectors = np.load(paths.EMBEDDINGS / "embeddings.npy")
    in_training, in_evaluation = set(manifest.ids("train")), set(manifest.ids("eval"))
    training = np.array([one in in_training for one in ids], bool)
    evaluation = np.array([one in in_evaluation for one in ids], bool)
    images = manifest.images.filter(pc.is_in(manifest.images["id"], value_set=pa.array(ids, pa.string())))
    hashes = images["phash"].to_numpy()
    pixels = pc.multiply(pc.cast(images["width"], pa.int64()), images["height"]).to_numpy()
    device = context.settings.torch_device()
    candidates = candidate_pairs(
        vectors,
        hashes,
        evaluation,
        neighbours=params.neighbours,
        hash_distance=params.hash_distance,
        device=device,
    )
    with open_shards(paths.SHARDS, manifest.locations, context.settings) as reader:
        copies = compare(
            load_thumbnails(reader, ids),
            candidates,
            lambda rows: load_thumbnails(reader, [ids[row] for row in rows], side=FINE_SIDE),
            least=params.leak_threshold,
            device=device,
        )
        components, accepted = copy_components(evaluation, copies, params)
        groups = choose(
            ids,
            training,
            evaluation,
            components,
            pixels,
            lambda one: sharpness(decode_rgb(reader.read(one), min_side=SHARPNESS_SIDE)),
        )
        pairs = pair_table(ids, copies, accepted)
        _log_pictures(groups, pairs, in_evaluation, reader, context)
    with publish(paths.DEDUP) as folder:
        folder.mkdir(parents=True)
        write_table(groups, folder / "groups.parquet")
        write_table(groups.filter(groups["kept"]).select(["id"]), folder / "kept.parquet")
        write_table(pairs, folder / "pairs.parquet")
    truth = {} if manifest.truth is None else score_deduplication(groups, manifest.truth)
    return {**_counts(groups), "candidates": len(candidates), "pairs": pairs.num_rows, **truth}


def _counts(groups: pa.Table) -> dict[str, float]:
    reasons = Counter(groups["reason"].to_pylist())
    sizes = Counter(groups.filter(pc.not_equal(groups["reason"], "leak"))["component"].to_pylist())
    return {
        "images": groups.num_rows,
        "kept": int(pc.sum(groups["kept"]).as_py() or 0),
        "duplicates": reasons["duplicate"],
        "leaks": reasons["leak"],
        "groups": reasons["representative"],
        "largest_group": max(sizes.values(), default=0),
    }


def _log_pictures(
    groups: pa.Table, pairs: pa.Table, evaluation: set[str], reader: Reader, context: StageContext
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        duplicates, leaks = Path(folder) / "duplicates.png", Path(folder) / "leaks.png"
        if duplicate_sheet(groups, reader, duplicates):
            context.run.log_artifact(duplicates, "curation")
        if leak_sheet(pairs, evaluation, reader, leaks):
            context.run.log_artifact(leaks, "curation")


if __name__ == "__main__":
    execute("dedup", DedupParams, run)
