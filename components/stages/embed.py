"""One vector an image."""

import numpy as np
import pyarrow as pa

from components.curation.embedder import read_embedder_lock
from components.curation.embedding import EmbedParams, Resources, embed
from components.data.manifest import Manifest
from components.data.shard_access import open_shards
from components.data.tables import write_table
from components.stages import paths
from components.stages.publish import publish
from components.stages.runner import StageContext, execute


def run(params: EmbedParams, context: StageContext) -> dict[str, float]:
    """Describes every readable image of both parts, in the order of the ids."""
    manifest = Manifest.load(paths.MANIFEST)
    lock = read_embedder_lock(paths.EMBEDDER_LOCK)
    ids = manifest.ids()
    context.run.set_tags({"embedder": lock.uri, "embedder.version": lock.version})
    with open_shards(paths.SHARDS, manifest.locations, context.settings) as reader:
        vectors = embed(lock, reader, ids, params, resources=_resources(context), locations=manifest.locations)
    with publish(paths.EMBEDDINGS) as folder:
        folder.mkdir(parents=True)
        np.save(folder / "embeddings.npy", vectors)
        write_table(pa.table({"id": pa.array(ids, pa.string())}), folder / "ids.parquet")
    return {"images": len(ids), "dimensions": vectors.shape[1]}


def _resources(context: StageContext) -> Resources:
    settings = context.settings
    return Resources(
        settings.torch_device(), settings.thread_count(), settings.ray_address, settings.cache / "embeddings"
    )


if __name__ == "__main__":
    execute("embed", EmbedParams, run)
