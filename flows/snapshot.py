"""Writing the locks that name what the pipeline works from: `data/source.lock` and `data/embedder.lock`."""

import logging
from pathlib import Path

from components.curation.embedding import (
    BUILTIN,
    CHAMPION,
    EmbedderLock,
    read_embedder_lock,
    resolve_embedder,
    write_embedder_lock,
)
from components.data.lock import SourceLock, read_lock, same_lock, write_lock
from components.data.snapshot import take_snapshot
from components.errors import UserError
from components.models.backbone import load_backbone
from components.registry.versions import RegistryUnavailable, champion
from components.settings import Settings
from components.stages import paths
from components.stages.params import PipelineParams
from flows.redaction import redact

_log = logging.getLogger(__name__)
REGISTERED = "models:/"


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


def refresh_embedder(params: PipelineParams, settings: Settings, *, source_changed: bool) -> str | None:
    """Resolves the embedder and writes `data/embedder.lock` if it differs from the one there is.

    Args:
        params: all parameters.
        settings: where the registry is.
        source_changed: whether there are new images. If there are none, a lock that names a registered model stays
            where the registry knows no champion: a clone with an empty registry has nothing to curate again.

    Returns:
        The new embedder, in words; None if it is the same.

    Raises:
        UserError: if a backbone that is named by URI cannot be loaded.
    """
    path = settings.root / paths.EMBEDDER_LOCK
    before = _embedder_at(path)
    is_registered = before is not None and before.uri.startswith(REGISTERED)
    try:
        found = resolve_embedder(params.embed, lambda: _champion(settings), lambda uri: load_backbone(uri).digest)
    except RegistryUnavailable as error:
        if before is not None:
            _log.warning("the embedder stays as it was: %s", error)
            return None
        found = resolve_embedder(params.embed, lambda: None, lambda uri: load_backbone(uri).digest)
    if found == before:
        return None
    if params.embed.embedder == CHAMPION and found.uri == BUILTIN and is_registered and not source_changed:
        return None
    write_embedder_lock(found, path)
    return f"{redact(found.uri)} {found.version}".strip()


def _champion(settings: Settings) -> EmbedderLock | None:
    found = champion(settings)
    return None if found is None else EmbedderLock(found.uri, found.version, found.digest)


def _embedder_at(path: Path) -> EmbedderLock | None:
    try:
        return read_embedder_lock(path)
    except UserError:
        return None


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
