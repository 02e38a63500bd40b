"""Writing shards: which images stand together depends on the images alone, and so does a shard's name."""

import hashlib
import os
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Protocol, Self

import pyarrow as pa

from components.data.shards import LOCATIONS, SHARD_LIMIT

SHARDS_OF_LIMIT = 8
"""How many shards of mean size make one of the largest."""
_END = bytes(2 * tarfile.BLOCKSIZE)
_BUFFER = 1 << 20
_NAME_DIGITS = 32
_DRAW_DIGITS = 13
"""Hexadecimal digits of an id that decide on the end of a shard."""


class Member(NamedTuple):
    """An image of a shard."""

    id: str
    """SHA-256 of the bytes, hexadecimal."""
    extension: str
    """Of the member's name, without the dot."""
    nbytes: int
    offset: int
    """Where its bytes start in the shard."""

    @property
    def end(self) -> int:
        """Where the next member starts."""
        return self.offset + self.nbytes + -self.nbytes % tarfile.BLOCKSIZE


class ShardStore(Protocol):
    """Keeps finished shards beyond the outs."""

    @property
    def folder(self) -> Path:
        """Where shards are written."""
        ...

    def link(self, name: str, members: Sequence[Member], path: Path) -> bool:
        """Puts a kept shard at `path`; False if there is none of that name."""
        ...

    def keep(self, partial: Path, name: str, members: Sequence[Member], path: Path) -> None:
        """Puts a finished, synced file of the folder at `path`, and keeps it under its name."""
        ...


def shard_name(members: Sequence[Member]) -> str:
    """Name of a shard: a hash of what is in it, so that a file of one name is never another one."""
    listing = "".join(f"{one.id}.{one.extension} {one.nbytes}\n" for one in members)
    return f"shard-{hashlib.sha256(listing.encode()).hexdigest()[:_NAME_DIGITS]}.tar"


def ends_shard(image_id: str, nbytes: int, max_bytes: int) -> bool:
    """Whether an image is the last of its shard, by a draw from its id alone.

    The chance is its share of the mean size, an eighth of the largest, so that shards are of that size on average. An
    image added between others changes only the shard it falls into (content-defined chunking; Muthitacharoen et al.,
    "A low-bandwidth network file system", 2001, section 3.1, with a draw for each image in place of each byte).

    Args:
        image_id: SHA-256 of the bytes, hexadecimal.
        nbytes: of the image.
        max_bytes: size of a shard at most.
    """
    draw = int(image_id[-_DRAW_DIGITS:], 16)
    return draw * max_bytes < SHARDS_OF_LIMIT * (nbytes + tarfile.BLOCKSIZE) << 4 * _DRAW_DIGITS


def is_whole(path: Path, members: Sequence[Member]) -> bool:
    """Whether a file is, to the last bit, the shard of these members: reads and hashes all of it."""
    try:
        with path.open("rb") as file:
            for one in members:
                header = file.read(tarfile.BLOCKSIZE)
                digest = hashlib.sha256(file.read(one.nbytes)).hexdigest()
                padding = file.read(len(_padding(one)))
                if (header, digest, padding) != (_header(one), one.id, _padding(one)):
                    return False
            return file.read() == _END
    except OSError:
        return False


def _header(member: Member) -> bytes:
    """A block as `tarfile` makes it: only name, size and checksum are not those of every other member."""
    name = f"{member.id}.{member.extension}".encode()
    size = b"%011o" % member.nbytes
    checksum = b"%06o" % (_COMMON_SUM + sum(name) + sum(size))
    return b"".join((
        name, _COMMON[len(name) : _SIZE.start], size, _COMMON[_SIZE.stop : _CHECKSUM.start], checksum,
        _COMMON[_CHECKSUM.stop :],
    ))  # fmt: skip


_SIZE, _CHECKSUM = slice(124, 135), slice(148, 154)
"""Digits of a header's numbers (POSIX.1-1988, ustar)."""
_COMMON = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
_COMMON_SUM = sum(_COMMON[: _SIZE.start] + _COMMON[_SIZE.stop : 148] + b" " * 8 + _COMMON[156:])


def _padding(member: Member) -> bytes:
    return bytes(-member.nbytes % tarfile.BLOCKSIZE)


class ShardWriter:
    """Puts images into tars in the order in which they come.

    Args:
        folder: an existing folder, where the shards are in the end.
        max_bytes: size of a shard at most, bytes.
        store: keeps shards of earlier runs, and gets the new ones; None: there is none.
    """

    def __init__(self, folder: Path, max_bytes: int = SHARD_LIMIT, store: ShardStore | None = None) -> None:
        self.folder = folder
        self.max_bytes = min(max_bytes, SHARD_LIMIT)
        self.shards = 0
        self.nbytes = 0
        self._store = store
        self._partial = (store.folder if store else folder) / f".partial-{os.getpid()}.tar"
        self._file: BinaryIO | None = None
        self._members: list[Member] = []
        self._unread: list[Callable[[], bytes]] = []
        """How to read the members that are not in the file yet: the last of `_members`."""
        self._batches: list[pa.RecordBatch] = []

    def write(self, image_id: str, extension: str, data: bytes) -> None:
        """Appends one image.

        Args:
            image_id: SHA-256 of the bytes, hexadecimal.
            extension: of the member's name, without the dot.
            data: the bytes.

        Raises:
            ValueError: if the image alone is larger than a shard may be, or its bytes are not those of the id.
        """
        member = self._place(image_id, extension, len(data))
        if self._unread:
            self._write_unread()
        self._append(member, data)
        self._placed(member)

    def reuse(self, image_id: str, extension: str, nbytes: int, read: Callable[[], bytes]) -> None:
        """Appends one image whose bytes are read only if its shard has to be written anew; see `write`.

        Args:
            image_id: SHA-256 of the bytes, hexadecimal.
            extension: of the member's name, without the dot.
            nbytes: its size.
            read: gives the bytes.
        """
        member = self._place(image_id, extension, nbytes)
        if self._file is None:
            self._unread.append(read)
        else:
            self._append(member, read())
        self._placed(member)

    def locations(self) -> pa.Table:
        """The index of everything written, sorted by id: id, shard, offset, nbytes. Call it when closed."""
        assert not self._members
        return pa.Table.from_batches(self._batches, schema=LOCATIONS).sort_by("id")

    def close(self) -> None:
        """Ends the last shard."""
        if self._members:
            self._finish()

    def _place(self, image_id: str, extension: str, nbytes: int) -> Member:
        """Where an image goes; a shard without room for it ends."""
        start = self._members[-1].end if self._members else 0
        member = Member(image_id, extension, nbytes, start + tarfile.BLOCKSIZE)
        if member.end + len(_END) > self.max_bytes and self._members:
            self._finish()
            member = member._replace(offset=tarfile.BLOCKSIZE)
        if member.end + len(_END) > self.max_bytes:
            raise ValueError(f"image {image_id} of {nbytes} bytes does not fit a shard of {self.max_bytes}")
        return member

    def _placed(self, member: Member) -> None:
        self._members.append(member)
        self.nbytes += member.nbytes
        if ends_shard(member.id, member.nbytes, self.max_bytes):
            self._finish()

    def _append(self, member: Member, data: bytes) -> None:
        if len(data) != member.nbytes or hashlib.sha256(data).hexdigest() != member.id:
            raise ValueError(f"the bytes of image {member.id} are others")
        if self._file is None:
            self._file = self._partial.open("wb", buffering=_BUFFER)
        self._file.write(_header(member))
        self._file.write(data)
        self._file.write(_padding(member))

    def _write_unread(self) -> None:
        first = len(self._members) - len(self._unread)
        for member, read in zip(self._members[first:], self._unread, strict=True):
            self._append(member, read())
        self._unread = []

    def _finish(self) -> None:
        name = shard_name(self._members)
        path = self.folder / name
        reused = self._file is None and self._store is not None and self._store.link(name, self._members, path)
        if not reused:
            self._write_unread()
            self._end_file()
            if self._store is None:
                self._partial.replace(path)
            else:
                self._store.keep(self._partial, name, self._members, path)
        rows = [{"id": one.id, "shard": name, "offset": one.offset, "nbytes": one.nbytes} for one in self._members]
        self._batches.append(pa.RecordBatch.from_pylist(rows, schema=LOCATIONS))
        self.shards += 1
        self._members, self._unread = [], []

    def _end_file(self) -> None:
        assert self._file is not None
        with self._file as file:
            file.write(_END)
            file.flush()
            os.fsync(file.fileno())
        self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.close()
        finally:
            self._partial.unlink(missing_ok=True)  # first: on a full disk closing writes once more, and fails
            if self._file is not None:
                self._file.close()
