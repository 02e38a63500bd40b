"""Writing the locks that name what the pipeline works from: images, embedder, initial weights."""

import logging
from dataclasses import dataclass
from pathlib import Path

from components.curation.embedder import EmbedderLock, read_embedder_lock, write_embedder_lock
from components.curation.embedding import is_asked_for, resolve_embedder
from components.data.changes import Changes, removed_since
from components.data.lock import Role, SourceLock, read_lock, same_lock, write_lock
from components.data.named_sources import each, readable
from components.data.snapshot import take_snapshot
from components.data.sources import open_source
from components.errors import UserError
from components.models.backbone import load_backbone
from components.redaction import redact
from components.registry.versions import RegistryUnavailable, champion
from components.settings import Settings
from components.stages import paths
from components.stages.params import PipelineParams
from components.training.initial import InitialLock, read_initial_lock, resolve_initial, write_initial_lock

_log = logging.getLogger(__name__)
NAMED = 3
"""Removed objects that are told by name."""


@dataclass(frozen=True)
class Refreshed:
    """What taking a snapshot has changed, in words; None where nothing has."""

    source: str | None
    embedder: str | None
    initial: str | None

    def lines(self) -> list[str]:
        """The same for people."""
        lines = [f"snapshot: {self.source or 'nothing new'}"]
        lines += [f"embedder: {self.embedder}"] if self.embedder else []
        lines += [f"pretrain begins with {self.initial}"] if self.initial else []
        return lines


def refresh_locks(params: PipelineParams, settings: Settings, *, always: bool = False) -> Refreshed:
    """Lists the sources, and writes the locks that differ from those there are.

    On new images the champion and `pretrain.initial` are looked up anew. `data/source.lock` is written last: whoever
    finds nothing new may rely on the other two, also after a kill.

    What the sources have lost since earlier snapshots is kept in `data/source.removed`, which has the format of a lock.

    Args:
        params: all parameters.
        settings: where things are.
        always: look for a new champion and new initial weights also where there are no new images.

    Raises:
        UserError: if a source cannot be read, or what is known to be removed cannot, or the embedder or the initial
            weights cannot be had.
    """
    lock, path = take_snapshot(params.snapshot, settings), settings.root / paths.SOURCE_LOCK
    before = _lock_at(path)
    is_new = before is None or not same_lock(before, lock)
    initial = refresh_initial(params, settings, always=always or is_new)
    embedder = refresh_embedder(params, settings, always=always or is_new)
    if not is_new:
        return Refreshed(None, embedder, initial)
    _record_removed(before, lock, settings.root / paths.REMOVED)
    write_lock(lock, path)
    return Refreshed(f"{readable(lock.train_uri)}: {_counts(before, lock)}", embedder, initial)


def probe_sources(params: PipelineParams, settings: Settings) -> list[str]:
    """Reads the first object of each source, of several too.

    Returns:
        Each source with the name of that object.

    Raises:
        UserError: if a source cannot be read, or holds no image.
    """
    wanted = params.snapshot
    sources: list[tuple[Role, str]] = [("train", uri) for uri in each(wanted.train_uri)]
    if wanted.eval is not None and wanted.eval_uri is not None:
        sources += [("eval", uri) for uri in each(wanted.eval_uri)]
    read = []
    for role, uri in sources:
        source = open_source(uri, role=role, settings=settings, include=wanted.include, exclude=wanted.exclude)
        first = next(iter(source.list()))
        source.read(first.name)
        read.append(f"{redact(uri)} ({first.name})")
    return read


def refresh_embedder(params: PipelineParams, settings: Settings, *, always: bool) -> str | None:
    """Resolves the embedder and writes `data/embedder.lock` if it differs from the one there is.

    Args:
        params: all parameters.
        settings: where the registry is.
        always: also where the present lock still is what the parameters ask for. Without it a promotion alone, or a
            clone whose registry is empty, does not make the same images to be curated again.

    Returns:
        The new embedder, in words; None if it is the same.

    Raises:
        UserError: if a backbone that is named by URI cannot be loaded.
    """
    path = settings.root / paths.EMBEDDER_LOCK
    before = _embedder_at(path)
    if not always and before is not None and is_asked_for(before, params.embed.embedder):
        return None
    try:
        found = resolve_embedder(params.embed, lambda: _champion(settings), lambda uri: load_backbone(uri).digest)
    except RegistryUnavailable as error:
        if before is not None:
            _log.warning("the embedder stays as it was: %s", error)
            return None
        found = resolve_embedder(params.embed, lambda: None, lambda uri: load_backbone(uri).digest)
    if found == before:
        return None
    write_embedder_lock(found, path)
    return f"{redact(found.uri)} {found.version}".strip()


def refresh_initial(params: PipelineParams, settings: Settings, *, always: bool) -> str | None:
    """Resolves `pretrain.initial` and writes `data/initial.lock` if it differs from the one there is.

    Args:
        params: all parameters.
        settings: where the lock is.
        always: also where the present lock still is what the parameters ask for: an alias may have moved.

    Returns:
        The new beginning, in words; None if it is the same.

    Raises:
        UserError: if it cannot be read, or not be adapted to `pretrain.model`.
    """
    path, wanted = settings.root / paths.INITIAL_LOCK, params.pretrain
    before = _initial_at(path)
    if not always and before is not None and before.uri == wanted.initial:
        return None
    found = resolve_initial(wanted.initial, wanted.model)
    if found == before:
        return None
    write_initial_lock(found, path)
    return "weights from the seed" if found.resolved is None else redact(found.resolved)


def _initial_at(path: Path) -> InitialLock | None:
    try:
        return read_initial_lock(path)
    except UserError:
        return None


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


def _removed_at(path: Path) -> SourceLock | None:
    if not path.exists():
        return None
    try:
        return read_lock(path)
    except UserError as error:  # it would be lost for good, where a lock is taken anew
        raise UserError(error.what, remedy="restore it with git, or end the merge that left marks in it") from None


def _counts(before: SourceLock | None, after: SourceLock) -> str:
    total = f"{len(after.of_role('train'))} objects, {len(after.of_role('eval'))} for evaluation"
    if before is None:
        return total
    changes = Changes.between(before, after)
    names = ", ".join(one.name for one in changes.removed[:NAMED])
    more = ", …" if len(changes.removed) > NAMED else ""
    gone = f"{len(changes.removed)} removed" + (f": {names}{more}" if names else "")
    return f"{total} ({len(changes.new)} new, {len(changes.changed)} changed, {gone})"


def _record_removed(before: SourceLock | None, after: SourceLock, path: Path) -> None:
    removed = removed_since(after, before, _removed_at(path))
    if removed.objects or path.exists():
        write_lock(removed, path)
