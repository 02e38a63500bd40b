"""Stage `ingest`: the objects of the source lock become manifest and shards."""

from typing import TYPE_CHECKING

from components.data.forgotten import read_forgotten
from components.data.ingest import IngestParams, build_manifest
from components.data.lock import read_lock
from components.stages import paths
from components.stages.publish import publish

if TYPE_CHECKING:
    from components.stages.runner import StageContext


def run(params: IngestParams, context: "StageContext") -> dict[str, float]:
    """Reads the source named by the lock and publishes `data/manifest` and `data/shards`."""
    lock = read_lock(paths.SOURCE_LOCK)
    # only what is kept outside the outs depends on it; that a list must be there is for dedup to say
    forgotten = read_forgotten(paths.FORGOTTEN_LOCK) if paths.FORGOTTEN_LOCK.exists() else ()
    with publish(paths.SHARDS) as shards, publish(paths.MANIFEST) as manifest:
        return build_manifest(lock, params, manifest, shards, context.settings, forgotten)


if __name__ == "__main__":
    # imported here, because decoding processes import this module again and need none of the rest
    from components.stages.runner import execute

    execute("ingest", IngestParams, run)
