"""Tars of images, WebDataset shards among them."""

import json
import logging
import os
import tarfile
import threading
from collections.abc import Iterator
from functools import cached_property, partial
from io import BufferedReader, FileIO
from typing import Any

from components.data.lock import Annotation
from components.data.sources.containers import Container, Place
from components.data.sources.digests import CHUNK, digest_of, digest_of_parts
from components.data.sources.listings import Member, in_threads
from components.data.sources.selection import Selection, safe_name
from components.errors import UserError

_log = logging.getLogger(__name__)
_opening = threading.Lock()
SIDECARS = {"cls": 1 << 10, "json": 1 << 20}
"""Members that say something about the image of the same key, and how many bytes they may have."""
HEADER_BYTES = 1 << 20
"""Largest header that is read: one that names a member and says more about it is a few hundred bytes long."""

Extent = tuple[int, int]
"""Offset and size of a member's bytes in the archive."""


class Tars:
    """Uncompressed tars; see `Tar`."""

    reader = "tar 1"

    def selection(self, given: Selection) -> Selection:
        """The patterns as given."""
        return given

    def open(self, place: Place) -> Container:
        """Opens a tar."""
        return Tar(place)


class Tar:
    """An uncompressed tar.

    Links, devices and sparse files are skipped with a warning; an absolute name, a name with `..` and two images of
    one name are refused. As WebDataset has it, the key of a member is its name up to the first dot of the last part;
    `KEY.cls` holds the label of the image, `KEY.json` may hold `label`, `group` and `frame`.

    Args:
        place: the file.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._file: FileIO | None = None

    def members(self, threads: int) -> Iterator[Member]:
        """Yields every regular file; images with size, SHA-256 and what the file beside them says."""
        wanted = [name for name in self._index if self._place.takes(name)]
        annotated = {_key(name) for name in wanted}
        for name in self._index.keys() - set(wanted):
            if _sidecar(name) is None or _key(name) not in annotated:
                yield Member(name, self._index[name][1], "")
        for name, digest in zip(wanted, in_threads(self._hash, wanted, threads), strict=True):
            yield Member(name, self._index[name][1], digest, self._said(_key(name)))

    def read(self, member: str, digest: str | None) -> bytes:
        """Returns the bytes of a member, see `Container.read`."""
        if member not in self._index:
            raise self._place.lacks(member)
        data = self._bytes(member)
        if digest is not None and digest_of(data) != digest:
            raise self._place.changed(member)
        return data

    def prepare(self) -> None:
        """Opens the file."""
        self._opened()

    def _said(self, key: str) -> Annotation | None:
        """What the files beside an image say about it; a `.cls` goes before a `.json`."""
        values: dict[str, Any] = {}
        said = None
        for extension, most in reversed(SIDECARS.items()):
            name = f"{key}.{extension}"
            if name in self._index:
                if self._index[name][1] > most:
                    raise self._unreadable(name)
                try:
                    values |= _READ[extension](self._bytes(name).decode("utf-8"))
                    said = Annotation(**values)
                except (ValueError, RecursionError):
                    raise self._unreadable(name) from None
        return said if values else None

    def _unreadable(self, name: str) -> UserError:
        remedy = f"mend it, or leave out what is beside the images with snapshot.exclude '*.{name.rpartition('.')[2]}'"
        return UserError(f"{self._place.uri}: '{name}' is not a label", remedy=remedy)

    def _hash(self, name: str) -> str:
        return digest_of_parts(self._parts(name, CHUNK))  # in constant memory: several threads do this

    def _bytes(self, name: str) -> bytes:
        return b"".join(self._parts(name, self._index[name][1]))

    def _parts(self, name: str, most: int) -> Iterator[bytes]:
        """The bytes of a member, `most` at a time at most; the system gives fewer than asked for above 2 GiB."""
        place, left = self._index[name]
        while left:
            part = os.pread(self._opened(), min(most, left), place)
            if not part:
                raise self._place.changed(name)
            yield part
            place, left = place + len(part), left - len(part)

    def _opened(self) -> int:
        with _opening:  # several threads hash at a time
            if self._file is None:
                self._file = self._place.open()
            return self._file.fileno()

    @cached_property
    def _index(self) -> dict[str, Extent]:
        found: dict[str, Extent] = {}
        try:
            with self._from_start() as file, tarfile.open(str(self._place.file), "r:", file) as archive:
                for name, extent in self._headers(archive):
                    if name in found and (_sidecar(name) or self._place.takes(name)):
                        raise UserError(f"{self._place.uri}: two files are named '{name}'", remedy="rename one of them")
                    found[name] = extent
                self._check_end(archive, file)
        except (tarfile.TarError, ValueError, OverflowError, RecursionError) as error:
            remedy = "pack it anew as one uncompressed tar; `cat` does not join two, `tar --concatenate` does"
            raise UserError(f"{self._place.uri}: not a whole tar ({error})", remedy=remedy) from None
        except OSError as error:
            raise UserError(f"{self._place.uri}: {error.strerror}", remedy="give a readable tar") from None
        return found

    def _headers(self, archive: tarfile.TarFile) -> Iterator[tuple[str, Extent]]:
        skipped = end = 0
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header otherwise
            if member.size < 0 or archive.offset <= end:  # it would be read again and again
                raise tarfile.ReadError(f"damaged at byte {member.offset}")
            end = archive.offset
            if member.isdir():
                continue
            name = safe_name(member.name, self._place.uri)
            if member.isreg() and not member.issparse():
                yield name, (member.offset_data, member.size)
            elif self._place.takes(name):
                skipped += 1
        if skipped:
            _log.warning("%s: skipped %d links, devices or sparse files", self._place.uri, skipped)

    def _from_start(self) -> "_Headers":
        file = _Headers(FileIO(os.dup(self._opened())))
        file.seek(0)
        return file

    def _check_end(self, archive: tarfile.TarFile, file: BufferedReader) -> None:
        """Makes sure that nothing is missing and nothing follows.

        To `tarfile` a damaged header, the end of a file cut short and the zeros between two archives joined by `cat`
        all look like the end of the archive.
        """
        file.seek(archive.offset)
        mark = file.read(tarfile.BLOCKSIZE)
        if any(mark):
            raise tarfile.ReadError(f"damaged at byte {archive.offset}")
        if len(mark) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("cut short: its end marker is missing")
        for chunk in iter(partial(file.read, CHUNK), b""):
            if more := chunk.lstrip(b"\0"):
                raise tarfile.ReadError(f"after its end more follows at byte {file.tell() - len(more)}")

    def __getstate__(self) -> dict[str, Any]:
        # the index goes along: else each worker would read all headers again, and tell again what it leaves out
        return {**self.__dict__, "_file": None, "_index": self._index}

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self._file.close()  # type: ignore[union-attr]


class _Headers(BufferedReader):
    """A tar of which no more is read at a time than a header may have."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= HEADER_BYTES:
            raise tarfile.ReadError(f"damaged at byte {self.tell()}")
        return super().read(size)


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _sidecar(name: str) -> str | None:
    extension = name.rpartition("/")[2].partition(".")[2]
    return extension if extension in SIDECARS else None


def _class(text: str) -> dict[str, Any]:
    return {"label": text.strip()} if text.strip() else {}


def _fields(text: str) -> dict[str, Any]:
    """The fields of a JSON object that are annotations; whatever else is in it says nothing here."""
    values = json.loads(text)
    if not isinstance(values, dict):
        return {}
    found: dict[str, Any] = {
        field: str(values[field]) for field in ("label", "group") if isinstance(values.get(field), str | int)
    }
    return found | ({"frame": values["frame"]} if type(values.get("frame")) is int else {})


_READ = {"cls": _class, "json": _fields}
