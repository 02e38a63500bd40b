"""Near-duplicates and leaks out."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.curation.deduplication import DedupParams, find_pairs, group, sharpness
from components.curation.embedding import thumbnails
from components.curation.pictures import duplicate_groups
from components.curation.scoring import score_deduplication
from components.data.manifest import Manifest
from components.data.shards import ShardReader
from components.data.tables import read_table, write_table
from components.stages import paths
from components.stages.publish import publish
from components.stages.runner import StageContext, execute


def run(params: DedupParams, context: StageContext) -> dict[str, float]:
    """Groups the images, keeps one of each group, drops what leaks; scores it where there is truth."""
    manifest = Manifest.load(paths.MANIFEST)
    ids = read_table(paths.EMBEDDINGS / "ids.parquet")["id"].to_pylist()
    vectors = np.load(paths.EMBEDDINGS / "embeddings.npy")
    sizes = dict(
        zip(
            manifest.images["id"].to_pylist(),
            pc.multiply(manifest.images["width"], manifest.images["height"]).to_pylist(),
            strict=True,
        )
    )
    evaluation = set(manifest.ids("eval"))
    with ShardReader(paths.SHARDS, manifest.locations) as reader:
        small = thumbnails(reader, ids)
        pairs, agreement = find_pairs(vectors, small, params)
        quality = [(sizes[one], float(sharp)) for one, sharp in zip(ids, sharpness(small), strict=True)]
        groups = group(ids, [one in evaluation for one in ids], quality, pairs, agreement, params)
        _log_pictures(groups, reader, context)
    with publish(paths.DEDUP) as folder:
        folder.mkdir(parents=True)
        write_table(groups, folder / "groups.parquet")
        write_table(pa.table({"id": groups.filter(groups["kept"])["id"]}), folder / "kept.parquet")
    counts = {row["values"]: row["counts"] for row in groups["reason"].value_counts().to_pylist()}
    metrics: dict[str, float] = {
        "images": groups.num_rows,
        "kept": int(pc.sum(groups["kept"]).as_py() or 0),
        "duplicates": counts.get("duplicate", 0),
        "leaks": counts.get("leak", 0),
        "groups": counts.get("representative", 0),
    }
    if manifest.truth is not None:
        metrics |= score_deduplication(groups, manifest.truth)
    return metrics


def _log_pictures(groups: pa.Table, reader: ShardReader, context: StageContext) -> None:
    members: dict[str, list[tuple[bool, str]]] = {}
    for row in groups.filter(pc.not_equal(groups["reason"], "unique")).to_pylist():
        members.setdefault(row["component"], []).append((not row["kept"], row["id"]))
    shown = [[one for _, one in sorted(rows)] for _, rows in sorted(members.items()) if len(rows) > 1]
    if not shown:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "duplicates.png"
        duplicate_groups(shown, reader, path)
        context.run.log_artifact(path, "curation")


if __name__ == "__main__":
    execute("dedup", DedupParams, run)
