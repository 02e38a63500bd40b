"""Shards wherever they are: in the project, else in a bucket."""

from pathlib import Path

import pyarrow as pa

from components.data.bucket_shards import BucketShardReader
from components.data.shards import ShardReader
from components.settings import Settings


def open_shards(folder: Path, locations: pa.Table, settings: Settings) -> ShardReader | BucketShardReader:
    """Opens the shards of a manifest.

    Args:
        folder: where they are in the project.
        locations: id, shard, offset, nbytes, as in the manifest.
        settings: the bucket to read from where there is no such folder, and whether to verify what is read.

    Raises:
        UserError: if the settings name no bucket.
    """
    if settings.shards_uri is None or folder.exists():
        return ShardReader(folder, locations, verify=settings.verify_reads)
    return BucketShardReader(
        settings.shards_uri,
        locations,
        cache=settings.cache / "images",
        cache_bytes=settings.image_cache_bytes // settings.processes,
        endpoint=settings.s3_endpoint,
    )
