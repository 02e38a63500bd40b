"""Writing the locks that name what the pipeline works from: `data/source.lock` and `data/embedder.lock`."""

from dataclasses import dataclass

from components.data.lock import SourceLock, write_lock
from components.data.snapshot import take_snapshot
from components.settings import Settings
from components.stages import paths
from components.stages.params import PipelineParams


@dataclass(frozen=True)
class Refreshed:
    """What a snapshot has brought."""

    lock: SourceLock
    source_changed: bool
    embedder_changed: bool

    @property
    def is_new(self) -> bool:
        """Whether there is anything for the pipeline to do because of it."""
        return self.source_changed or self.embedder_changed


def refresh_locks(params: PipelineParams, settings: Settings) -> Refreshed:
    """Lists the sources and resolves the embedder; writes a lock only if it differs from the one there is.

    Args:
        params: all parameters.
        settings: where things are.

    Raises:
        UserError: if a source or the embedder cannot be had.
    """
    lock = take_snapshot(params.snapshot, settings)
    path = settings.root / paths.SOURCE_LOCK
    source_changed = not _holds(path, lock)
    if source_changed:
        write_lock(lock, path)
    return Refreshed(lock, source_changed, _refresh_embedder(params, settings))
