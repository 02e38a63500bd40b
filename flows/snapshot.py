"""Writing the locks that name what the pipeline works from: `data/source.lock` and `data/embedder.lock`."""

from pathlib import Path

from components.data.lock import SourceLock, read_lock, same_lock, write_lock
from components.data.snapshot import take_snapshot
from components.errors import UserError
from components.settings import Settings
from components.stages import paths
from components.stages.params import PipelineParams
from flows.redaction import redact


def refresh_source(params: PipelineParams, settings: Settings) -> str | None:
    """Lists the sources and writes `data/source.lock` if it differs from the one there is.

    Args:
        params: all parameters.
        settings: where things are.

    Returns:
        What is new, in words; None if nothing is.

    Raises:
        UserError: if a source cannot be read.
    """
    lock, path = take_snapshot(params.snapshot, settings), settings.root / paths.SOURCE_LOCK
    before = _lock_at(path)
    if before is not None and same_lock(before, lock):
        return None
    write_lock(lock, path)
    return f"{redact(lock.train_uri)}: {_counts(before, lock)}"


def _lock_at(path: Path) -> SourceLock | None:
    try:
        return read_lock(path)
    except UserError:  # absent or damaged: a new one is taken anyway
        return None


def _counts(before: SourceLock | None, after: SourceLock) -> str:
    total = f"{len(after.of_role('train'))} objects, {len(after.of_role('eval'))} for evaluation"
    if before is None:
        return total
    old, new = set(before.objects), set(after.objects)
    return f"{total} ({len(new - old)} new, {len(old - new)} gone)"
