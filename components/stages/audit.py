"""Stage `audit`: is the curation fit to train on, and what became of every image."""

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np

from components.curation.audit import (
    CURATED_REMEDY,
    EMBEDDINGS_REMEDY,
    AuditParams,
    Curation,
    check_curated,
    check_embeddings,
)
from components.curation.clusters import TrainingClusters, training_clusters
from components.curation.expectations import failed_rows, report, require
from components.curation.funnel import funnel, funnel_metrics, funnel_table
from components.curation.page.charts import funnel_picture
from components.curation.page.page import Story, render, training_vectors
from components.data.manifest import Manifest
from components.data.shard_access import open_shards
from components.data.tables import read_table, write_table
from components.stages import paths
from components.stages.publish import publish
from components.stages.runner import StageContext, execute


def run(params: AuditParams, context: StageContext) -> dict[str, float]:
    """Writes the page of the curation, and, if it passes, the mark that training depends on.

    The page is written and stored with the run before a failed check stops the pipeline: it says what is wrong.
    """
    curation = _curation()
    clusters, labels = _clusters(curation, params)
    with tempfile.TemporaryDirectory() as folder:
        embeddings = check_embeddings(curation, params, Path(folder) / "embeddings")
        curated = check_curated(curation, labels, params, Path(folder) / "curated")
        context.run.log_artifact(Path(folder) / "embeddings", "curation/data-docs")
        context.run.log_artifact(Path(folder) / "curated", "curation/data-docs")
    results = [*embeddings, *curated]
    steps = funnel(curation.manifest, curation.groups, curation.curated)
    story = Story(
        steps=steps,
        sets=read_table(paths.RETRIEVAL / "sets.parquet"),
        neighbours=read_table(paths.RETRIEVAL / "neighbours.parquet"),
        clusters=clusters,
        reports=(
            ("manifest", json.loads((paths.VALIDATION / "report.json").read_text(encoding="utf-8"))),
            ("embeddings", report(embeddings)),
            ("curated set", report(curated)),
        ),
    )
    with open_shards(paths.SHARDS, curation.manifest.locations, context.settings) as reader:
        page = render(curation, story, reader, params)
    context.run.log_text(page, "curation/index.html")
    context.run.log_text(funnel_picture(steps), "curation/funnel.svg")
    context.run.log_text(failed_rows(results), "curation/failed-rows.csv")
    require(embeddings, subject="the embeddings", remedy=EMBEDDINGS_REMEDY)
    require(curated, subject="the curated images", remedy=CURATED_REMEDY)
    with publish(paths.AUDIT) as mark, publish(paths.CURATION) as folder_out:
        mark.mkdir(parents=True)
        folder_out.mkdir(parents=True)
        (mark / "passed.json").write_text(json.dumps({"curated_sha256": _digest(curation)}) + "\n", encoding="utf-8")
        (folder_out / "index.html").write_text(page, encoding="utf-8")
        (folder_out / "funnel.svg").write_text(funnel_picture(steps), encoding="utf-8")
        (folder_out / "checks.json").write_text(json.dumps(report(results), indent=2) + "\n", encoding="utf-8")
        write_table(funnel_table(steps), folder_out / "funnel.parquet")
    return {"expectations": len(results), "clusters": len(clusters.before), **funnel_metrics(steps)}


def _curation() -> Curation:
    return Curation(
        manifest=Manifest.load(paths.MANIFEST),
        ids=read_table(paths.EMBEDDINGS / "ids.parquet")["id"].to_pylist(),
        vectors=np.load(paths.EMBEDDINGS / "embeddings.npy", mmap_mode="r"),
        groups=read_table(paths.DEDUP / "groups.parquet"),
        pairs=read_table(paths.DEDUP / "pairs.parquet"),
        curated=read_table(paths.CURATED / "ids.parquet")["id"].to_pylist(),
    )


def _clusters(curation: Curation, params: AuditParams) -> tuple[TrainingClusters, np.ndarray]:
    """Clusters of all training images, and the cluster of each curated one."""
    chosen = set(curation.curated)
    ids = curation.groups["id"].to_pylist()
    stays = np.array([one in chosen for one in ids], bool)
    clusters = training_clusters(ids, training_vectors(curation), stays, params.clusters, params.seed)
    return clusters, clusters.labels[stays]


def _digest(curation: Curation) -> str:
    return hashlib.sha256("\n".join(curation.curated).encode()).hexdigest()


if __name__ == "__main__":
    execute("audit", AuditParams, run)
