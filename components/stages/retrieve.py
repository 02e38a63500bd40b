"""Keep what resembles the images one cares about."""

import numpy as np
import pyarrow as pa

from components.curation.retrieval import Retrieved, RetrieveParams, draw_queries, retrieve
from components.curation.scoring import score_retrieval
from components.data.forgotten import load_usable
from components.data.lock import read_lock
from components.data.tables import read_table, write_table
from components.stages import paths
from components.stages.publish import publish
from components.stages.runner import StageContext, execute


def run(params: RetrieveParams, context: StageContext) -> dict[str, float]:
    """Chooses the training images among those that deduplication kept."""
    manifest = load_usable(paths.MANIFEST, paths.DEDUP)
    ids = read_table(paths.EMBEDDINGS / "ids.parquet")["id"].to_pylist()
    vectors = np.load(paths.EMBEDDINGS / "embeddings.npy")
    row = {one: index for index, one in enumerate(ids)}
    kept = read_table(paths.DEDUP / "kept.parquet")["id"].to_pylist()
    queries = draw_queries(manifest.ids("eval"), params.queries, params.seed)
    has_own_evaluation = read_lock(paths.SOURCE_LOCK).eval_uri is not None
    found = retrieve(
        vectors[[row[one] for one in kept]],
        vectors[[row[one] for one in queries]],
        params.resolved(own_evaluation=has_own_evaluation),
        device=context.settings.torch_device(),
    )
    chosen = [kept[position] for position in found.rows.tolist()]
    with publish(paths.CURATED) as folder:
        folder.mkdir(parents=True)
        write_table(pa.table({"id": pa.array(chosen, pa.string())}), folder / "ids.parquet")
        write_table(_neighbours(found, queries, kept), folder / "neighbours.parquet")
    truth = {} if manifest.truth is None else score_retrieval(set(chosen), set(kept), manifest.truth)
    return {
        "images": len(kept),
        "curated": len(chosen),
        "queries": len(queries),
        "neighbours": found.neighbours.shape[1],
        "similarity": float(np.round(found.similarity.mean(), 4)),
        **truth,
    }


def _neighbours(found: Retrieved, queries: list[str], base: list[str]) -> pa.Table:
    count, k = found.neighbours.shape
    return pa.table(
        {
            "query": pa.array([one for one in queries for _ in range(k)], pa.string()),
            "neighbour": pa.array([base[position] for position in found.neighbours.reshape(-1)], pa.string()),
            "rank": pa.array(list(range(k)) * count, pa.int32()),
            "similarity": pa.array(np.round(found.similarity.reshape(-1), 4), pa.float32()),
        }
    )


if __name__ == "__main__":
    execute("retrieve", RetrieveParams, run)
