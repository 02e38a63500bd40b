"""Keep what resembles the images one cares about."""

import numpy as np
import pyarrow as pa

from components.curation.retrieval import Retrieved, RetrieveParams, draw_queries, retrieve
from components.curation.scoring import score_retrieval
from components.data.manifest import Manifest
from components.data.tables import read_table, write_table
from components.stages import paths
from components.stages.publish import publish
from components.stages.runner import StageContext, execute


def run(params: RetrieveParams, context: StageContext) -> dict[str, float]:
    """Chooses the training images among those that deduplication kept."""
    manifest = Manifest.load(paths.MANIFEST)
    ids = read_table(paths.EMBEDDINGS / "ids.parquet")["id"].to_pylist()
    vectors = np.load(paths.EMBEDDINGS / "embeddings.npy")
    row = {one: index for index, one in enumerate(ids)}
    kept = read_table(paths.DEDUP / "kept.parquet")["id"].to_pylist()
    queries = draw_queries(manifest.ids("eval"), params.queries, params.seed)
    found = retrieve(kept, vectors[[row[o] for o in kept]], queries, vectors[[row[o] for o in queries]], params)
    with publish(paths.CURATED) as folder:
        folder.mkdir(parents=True)
        write_table(pa.table({"id": found.ids}), folder / "ids.parquet")
        write_table(_neighbours(found, kept), folder / "neighbours.parquet")
    metrics: dict[str, float] = {
        "images": len(kept),
        "curated": len(found.ids),
        "queries": len(queries),
        "similarity.mean": float(found.similarity.mean()),
    }
    if manifest.truth is not None:
        metrics |= score_retrieval(set(found.ids), set(kept), manifest.truth)
    return metrics


def _neighbours(found: Retrieved, base_ids: list[str]) -> pa.Table:
    queries, k = found.neighbours.shape
    return pa.table(
        {
            "query": pa.array([one for one in found.query_ids for _ in range(k)], pa.string()),
            "neighbour": pa.array([base_ids[i] for i in found.neighbours.reshape(-1)], pa.string()),
            "rank": pa.array(list(range(k)) * queries, pa.int32()),
            "similarity": pa.array(found.similarity.reshape(-1), pa.float32()),
        }
    )


if __name__ == "__main__":
    execute("retrieve", RetrieveParams, run)
