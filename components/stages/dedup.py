"""Near-duplicates and leaks out."""

import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, UInt64

from components.curation.candidates import Search, candidate_pairs
from components.curation.copies import FINE_SIDE, Copies, compare
from components.curation.cosine import cosine_copies
from components.curation.deduplication import (
    SHARPNESS_SIDE,
    DedupParams,
    choose,
    copy_components,
    pair_table,
    sharpness,
)
from components.curation.embedder import BUILTIN, read_embedder_lock
from components.curation.evaluation_sets import (
    EvaluationSet,
    Membership,
    assign,
    leaks_by_set,
    require_usable,
    sets_of_sources,
    sources_with_images,
)
from components.curation.pictures import duplicate_sheet, leak_sheet
from components.curation.scoring import score_deduplication
from components.data.decoding import decode_stored
from components.data.forgotten import FORGOTTEN, read_forgotten, usable
from components.data.lock import read_lock
from components.data.manifest import Manifest
from components.data.named_sources import named
from components.data.reading import Reader
from components.data.shard_access import open_shards
from components.data.tables import read_table, write_table
from components.features.descriptor import describe_many
from components.features.thumbnails import load_thumbnails
from components.stages import paths
from components.stages.publish import publish
from components.stages.runner import StageContext, execute


def run(params: DedupParams, context: StageContext) -> dict[str, float]:
    """Groups the training images, keeps one of each group, drops what leaks; scores it where there is truth."""
    everything, forgotten = Manifest.load(paths.MANIFEST), read_forgotten(paths.FORGOTTEN_LOCK)
    manifest, left_out = usable(everything, forgotten), sorted(forgotten.intersection(everything.ids()))
    ids, vectors = _embedded(forgotten)
    in_training = set(manifest.ids("train"))
    training = np.array([one in in_training for one in ids], bool)
    chosen = _evaluation_sets(params, everything, forgotten)
    sets = assign(chosen, params.leak_threshold, ids, manifest.sources)
    images = manifest.images.filter(pc.is_in(manifest.images["id"], value_set=pa.array(ids, pa.string())))
    pixels = pc.multiply(pc.cast(images["width"], pa.int64()), images["height"]).to_numpy()
    search = Search(params.exact_up_to, params.probes, context.settings.torch_device())
    with open_shards(paths.SHARDS, manifest.locations, context.settings) as reader:
        hashes, threads = images["phash"].to_numpy(), context.settings.thread_count()
        found = _compare(params, reader, ids, vectors, hashes, sets, search, threads)
        components, accepted = copy_components(found.copies, params.threshold, sets.threshold)
        groups = choose(
            ids,
            training,
            sets.evaluation,
            components,
            pixels,
            lambda one: sharpness(decode_stored(reader.read, one, min_side=2 * SHARPNESS_SIDE)),
        )
        pairs = pair_table(ids, found.copies, accepted)
        _log_pictures(groups, pairs, {ids[row] for row in sets.evaluation.nonzero()[0]}, reader, context)
    with publish(paths.DEDUP) as folder:
        folder.mkdir(parents=True)
        write_table(groups, folder / "groups.parquet")
        write_table(groups.filter(groups["kept"]).select(["id"]), folder / "kept.parquet")
        write_table(pairs, folder / "pairs.parquet")
        write_table(pa.table({"id": pa.array(left_out, pa.string())}), folder / FORGOTTEN)
    truth = {} if manifest.truth is None else score_deduplication(groups, manifest.truth)
    leaks = leaks_by_set(sets, training, components) if chosen else {}
    return {
        **_counts(groups),
        "forgotten": len(left_out),
        "candidates": len(found.copies.pairs),
        "pairs": pairs.num_rows,
        "search_recall": round(found.recall, 4),
        **{f"leaks.{name}": count for name, count in leaks.items()},
        **truth,
    }


def _evaluation_sets(params: DedupParams, everything: Manifest, forgotten: frozenset[str]) -> tuple[EvaluationSet, ...]:
    if params.evaluation_sets:
        patterns = {f"{one.images} of the set {one.name}": one.images for one in params.evaluation_sets}
        require_usable(patterns, everything, forgotten)
        return params.evaluation_sets
    names = sources_with_images(named(read_lock(paths.SOURCE_LOCK).eval_uri), everything, forgotten)
    return sets_of_sources(names, params.leak_threshold)


def _embedded(forgotten: frozenset[str]) -> tuple[list[str], Float[np.ndarray, "images dim"]]:
    """Ids and vectors of the images that may be used."""
    ids: list[str] = read_table(paths.EMBEDDINGS / "ids.parquet")["id"].to_pylist()
    vectors: Float[np.ndarray, "images dim"] = np.load(paths.EMBEDDINGS / "embeddings.npy", mmap_mode="c")
    if forgotten.isdisjoint(ids):
        return ids, vectors
    rows = [row for row, one in enumerate(ids) if one not in forgotten]
    return [ids[row] for row in rows], vectors[rows]


class _Compared(NamedTuple):
    copies: Copies
    recall: float


def _compare(
    params: DedupParams,
    reader: Reader,
    ids: list[str],
    vectors: Float[np.ndarray, "n dim"],
    hashes: UInt64[np.ndarray, " n"],
    sets: Membership,
    search: Search,
    threads: int,
) -> _Compared:
    """Measure the pairs that may be copies, by registration or by cosine.

    A backbone that holds copies apart would hide them from registration: the built-in descriptor proposes pairs, too.
    """
    if params.measure == "cosine":
        bounds = np.minimum(sets.threshold, params.threshold)  # of an evaluation image; of a training image
        return _Compared(
            *cosine_copies(vectors, sets.members, bounds=bounds, neighbours=params.neighbours, search=search)
        )
    thumbnails = load_thumbnails(reader, ids, threads=threads)
    spaces = [vectors]
    if read_embedder_lock(paths.EMBEDDER_LOCK).uri != BUILTIN:
        spaces.append(describe_many(thumbnails, search.device))
    candidates = candidate_pairs(
        spaces,
        hashes,
        sets.members,
        neighbours=params.neighbours,
        hash_distance=params.hash_distance,
        search=search,
    )
    copies = compare(
        thumbnails,
        candidates.pairs,
        lambda rows: load_thumbnails(reader, [ids[row] for row in rows], side=FINE_SIDE, threads=threads),
        least=params.least,
        device=search.device,
    )
    return _Compared(copies, candidates.recall)


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
