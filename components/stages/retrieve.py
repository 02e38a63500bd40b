"""Keep what resembles the images one cares about."""

import numpy as np
import pyarrow as pa

from components.curation.evaluation_sets import require_usable, sources_with_images
from components.curation.queries import QuerySet, query_sets
from components.curation.retrieval import Retrieved, RetrieveParams, SetAccount, retrieve
from components.curation.scoring import score_retrieval
from components.data.forgotten import read_left_out, usable
from components.data.lock import read_lock
from components.data.manifest import Manifest
from components.data.named_sources import named
from components.data.tables import read_table, write_table
from components.stages import paths
from components.stages.publish import publish
from components.stages.runner import StageContext, execute


def run(params: RetrieveParams, context: StageContext) -> dict[str, float]:
    """Chooses the training images among those that deduplication kept."""
    everything, left_out = Manifest.load(paths.MANIFEST), read_left_out(paths.DEDUP)
    manifest = usable(everything, left_out)
    ids = read_table(paths.EMBEDDINGS / "ids.parquet")["id"].to_pylist()
    vectors = np.load(paths.EMBEDDINGS / "embeddings.npy", mmap_mode="r")
    row = {one: index for index, one in enumerate(ids)}
    kept = read_table(paths.DEDUP / "kept.parquet")["id"].to_pylist()
    eval_uri = read_lock(paths.SOURCE_LOCK).eval_uri
    params = params.resolved(own_evaluation=eval_uri is not None)
    if params.sets:
        patterns = {f"retrieve.sets.{name} '{one.images(name)}'": one.images(name) for name, one in params.sets.items()}
        require_usable(patterns, everything, left_out)
    else:
        names = sources_with_images(named(eval_uri), everything, left_out)
        params = params.model_copy(update={"sets": {name: QuerySet() for name in names}})
    queries = query_sets(manifest, params.sets, params.queries, params.seed)
    found = retrieve(
        vectors[[row[one] for one in kept]],
        {name: vectors[[row[one] for one in members]] for name, members in queries.items()},
        params,
        device=context.settings.torch_device(),
    )
    chosen = [kept[position] for position in found.rows.tolist()]
    with publish(paths.CURATED) as curated, publish(paths.RETRIEVAL) as record:
        curated.mkdir(parents=True)
        record.mkdir(parents=True)
        write_table(pa.table({"id": pa.array(chosen, pa.string())}), curated / "ids.parquet")
        write_table(_neighbours(found, queries, kept), record / "neighbours.parquet")
        write_table(_accounts(found.sets), record / "sets.parquet")
        if found.clusters is not None:
            clusters = pa.table({"id": pa.array(kept, pa.string()), "cluster": pa.array(found.clusters, pa.int32())})
            write_table(clusters, record / "clusters.parquet")
    truth = {} if manifest.truth is None else score_retrieval(set(chosen), set(kept), manifest.truth)
    return {
        "images": len(kept),
        "curated": len(chosen),
        "left_out": len(kept) - len(chosen),
        "queries": len(found.neighbours),
        "neighbours": found.reach,
        "similarity": float(np.round(found.similarity.mean(), 4)) if found.similarity.size else 0.0,
        **_metrics(found),
        **truth,
    }


def _metrics(found: Retrieved) -> dict[str, float]:
    """What each set brought in, and how many clusters were made."""
    metrics: dict[str, float] = {}
    for account in found.sets:
        counts = {key: value for key, value in account._asdict().items() if isinstance(value, int)}
        metrics |= {f"set.{account.name}.{key}": value for key, value in counts.items()}
    if found.clusters is not None:
        metrics["clusters"] = len(np.unique(found.clusters))
    return metrics


def _accounts(sets: tuple[SetAccount, ...]) -> pa.Table:
    schema = pa.schema(
        [(name, pa.string() if kind is str else pa.int64()) for name, kind in SetAccount.__annotations__.items()]
    )
    return pa.Table.from_pylist([one._asdict() for one in sets], schema=schema)


def _neighbours(found: Retrieved, queries: dict[str, list[str]], base: list[str]) -> pa.Table:
    count, k = found.neighbours.shape
    of_query = pa.array(np.repeat(np.arange(count), k))
    sets = [name for name, members in queries.items() for _ in members]
    ids = [one for members in queries.values() for one in members]
    return pa.table(
        {
            "set": pa.array(sets, pa.string()).take(of_query),
            "query": pa.array(ids, pa.string()).take(of_query),
            "neighbour": pa.array(base, pa.string()).take(pa.array(found.neighbours.reshape(-1))),
            "rank": pa.array(np.tile(np.arange(k), count), pa.int32()),
            "similarity": pa.array(np.round(found.similarity.reshape(-1), 4), pa.float32()),
        }
    )


if __name__ == "__main__":
    execute("retrieve", RetrieveParams, run)
