"""A tar of images, read in place: nothing is ever extracted."""

import logging
import os
import tarfile
import threading
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from components.data.lock import Role, SourceObject
from components.data.sources.digests import CHUNK, DigestCache, Stamp, digest_of, digest_of_parts
from components.data.sources.protocol import Annotation
from components.data.sources.selection import Selection, annotate, safe_name
from components.errors import UserError

_log = logging.getLogger(__name__)
_opening = threading.Lock()
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
        stamps = [Stamp(prefix + name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for name in self._index]
        digests = self._cache.digests(stamps, lambda stamp: self._hash(stamp.key.removeprefix(prefix)))
        for (name, (_, size)), digest in zip(self._index.items(), digests, strict=True):
            yield SourceObject(self.role, name, size, digest)

    def read(self, name: str, digest: str | None = None) -> bytes:
        """Returns the bytes of a member, see `Source.read`."""
        if name not in self._index:
            raise UserError(f"{self.uri}: has no image '{name}'", remedy=CHANGED)
        data = b"".join(self._parts(name, self._index[name][1]))
        if digest is not None and digest_of(data) != digest:
            raise self._changed(name)
        return data

    def annotation(self, name: str) -> Annotation:
        """The parent folder is the label."""
        return annotate(name)

    def truth(self) -> None:
        """Nothing is known about members but their names."""

    def _hash(self, name: str) -> str:
        return digest_of_parts(self._parts(name, CHUNK))  # in constant memory: several threads do this

    def _parts(self, name: str, most: int) -> Iterator[bytes]:
        """The bytes of a member, `most` at a time at most; the system gives fewer than asked for above 2 GiB."""
        place, left = self._index[name]
        while left:
            part = os.pread(self._opened(), min(most, left), place)
            if not part:
                raise self._changed(name)
            yield part
            place, left = place + len(part), left - len(part)

    def _opened(self) -> int:
        with _opening:  # several threads hash at a time
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            return self._descriptor

    def _changed(self, name: str) -> UserError:
        return UserError(f"{self.uri}: '{name}' changed since the snapshot", remedy=CHANGED)

    @cached_property
    def _index(self) -> dict[str, Extent]:
        try:
            with tarfile.open(self._path, "r:") as archive:
                found = self._selection.of(self._members(archive), self.uri)
                self._check_end(archive)
        except tarfile.ReadError as error:
            remedy = "pack it anew as one uncompressed tar; `cat` does not join two, `tar --concatenate` does"
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
        """Makes sure that nothing is missing and nothing follows.

        To `tarfile` a damaged header, the end of a file cut short and the zeros between two archives joined by `cat`
        all look like the end of the archive.
        """
        with self._path.open("rb") as file:
            file.seek(archive.offset)
            mark = file.read(tarfile.BLOCKSIZE)
            if any(mark):
                raise tarfile.ReadError(f"damaged at byte {archive.offset}")
            if len(mark) < tarfile.BLOCKSIZE:
                raise tarfile.ReadError("cut short: its end marker is missing")
            while chunk := file.read(CHUNK):
                if more := chunk.lstrip(b"\0"):
                    raise tarfile.ReadError(f"after its end more follows at byte {file.tell() - len(more)}")

    def __getstate__(self) -> dict[str, Any]:
        # the index goes along: else each worker would read all headers again, and tell again what it leaves out
        return {**self.__dict__, "_descriptor": None, "_index": self._index}

    def __del__(self) -> None:
        if getattr(self, "_descriptor", None) is not None:
            os.close(self._descriptor)  # type: ignore[arg-type]
