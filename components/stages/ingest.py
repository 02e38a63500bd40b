"""Stage `ingest`: the objects of the source lock become manifest and shards."""

from typing import TYPE_CHECKING

from components.data.ingest import IngestParams, build_manifest
from components.data.lock import read_lock
from components.stages import paths
from components.stages.publish import publish

if TYPE_CHECKING:
    from components.stages.runner import StageContext


def run(params: IngestParams, context: "StageContext") -> dict[str, float]:
    """Reads the source named by the lock and publishes `data/manifest` and `data/shards`."""
    lock = read_lock(paths.SOURCE_LOCK)
    with publish(paths.SHARDS) as shards, publish(paths.MANIFEST) as manifest:
        return build_manifest(lock, params, manifest, shards, context.settings)


if __name__ == "__main__":
    # imported here, because decoding processes import this module again and need none of the rest
    from components.stages.runner import execute

    execute("ingest", IngestParams, run)
