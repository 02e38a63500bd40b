"""A tar of images, read in place: nothing is ever extracted."""

import logging
import os
import tarfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from components.data.lock import Role, SourceObject
from components.data.sources.digests import DigestCache, Stamp, digest_of
from components.data.sources.protocol import Annotation
from components.data.sources.selection import Selection, annotate, safe_name
from components.errors import UserError

_log = logging.getLogger(__name__)
CHANGED = "take a new snapshot with `selfsight snapshot`"

Extent = tuple[int, int]
"""Offset and size of a member's bytes in the archive."""


class TarSource:
    """Every image in an uncompressed tar.

    Links, devices and sparse files are skipped with a warning; an absolute name, a name with `..` and two images of
    one name are refused.

    Args:
        uri: the file, as given.
        role: `train` or `eval`.
        selection: which members are images.
        cache: remembered digests.
    """

    def __init__(self, uri: str, role: Role, selection: Selection, cache: DigestCache) -> None:
        self.uri = uri
        self.role = role
        self._selection = selection
        self._cache = cache
        self._path = Path(uri).expanduser().resolve()
        self._descriptor: int | None = None

    def list(self) -> Iterator[SourceObject]:
        """Yields every image with its size and SHA-256, sorted by name."""
        stat = self._path.stat()
        prefix = f"{self._path}::"
        stamps = [Stamp(prefix + name, stat.st_size, stat.st_mtime_ns) for name in self._index]
        digests = self._cache.digests(stamps, lambda stamp: digest_of(self.read(stamp.key.removeprefix(prefix))))
        for (name, (_, size)), digest in zip(self._index.items(), digests, strict=True):
            yield SourceObject(self.role, name, size, digest)

    def read(self, name: str, digest: str | None = None) -> bytes:
        """Returns the bytes of a member, see `Source.read`."""
        if name not in self._index:
            raise UserError(f"{self.uri}: has no image '{name}'", remedy=CHANGED)
        offset, size = self._index[name]
        if self._descriptor is None:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        data = os.pread(self._descriptor, size, offset)
        if len(data) != size or (digest is not None and digest_of(data) != digest):
            raise UserError(f"{self.uri}: '{name}' changed since the snapshot", remedy=CHANGED)
        return data

    def annotation(self, name: str) -> Annotation:
        """The parent folder is the label."""
        return annotate(name)

    def truth(self) -> None:
        """Nothing is known about members but their names."""

    @cached_property
    def _index(self) -> dict[str, Extent]:
        try:
            with tarfile.open(self._path, "r:") as archive:
                found = self._selection.of(self._members(archive), self.uri)
                self._check_end(archive)
        except tarfile.ReadError as error:
            remedy = "make it anew; only uncompressed tars can be read in place"
            raise UserError(f"{self.uri}: not a whole tar ({error})", remedy=remedy) from None
        except OSError as error:
            raise UserError(f"{self.uri}: {error.strerror}", remedy="give a readable tar") from None
        return dict(found)

    def _members(self, archive: tarfile.TarFile) -> Iterator[tuple[str, Extent]]:
        skipped = 0
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
            if member.isdir():
                continue
            name = safe_name(member.name, self.uri)
            if member.isreg() and not member.issparse():
                yield name, (member.offset_data, member.size)
            elif self._selection.takes(name):
                skipped += 1
        if skipped:
            _log.warning("%s: skipped %d links, devices or sparse files", self.uri, skipped)

    def _check_end(self, archive: tarfile.TarFile) -> None:
        """A damaged header looks to `tarfile` like the end of the archive."""
        with self._path.open("rb") as file:
            file.seek(archive.offset)
            if any(file.read(tarfile.BLOCKSIZE)):
                raise tarfile.ReadError(f"damaged at byte {archive.offset}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_descriptor": None}

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]
