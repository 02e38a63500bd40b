"""What ingest remembers between runs, outside the outs: what was found out about images, and the shards they are in.

Losing it costs time only. Nothing in it is believed that could change the outs: findings are those of this very code
and these parameters, bytes are compared with their SHA-256 before they enter a shard.
"""

import hashlib
import os
import tarfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from components.data.cache_file import CacheFile
from components.data.linking import place_link
from components.data.shard_writer import Member, is_whole
from components.data.sources.digests import SHA256
from components.errors import UserError
from components.tracking.locking import shared_lock

T = TypeVar("T")

SECONDS = 2.0
"""Between writes of findings: each touches most pages of a tree that is sorted by digest. A kill loses so much work."""
KEPT_TURNS = 2
"""Runs of ingest for which a shard stays that they have no use for."""
_KEYS = 256
_PARTIAL = ".partial-*"
_TABLES = """
CREATE TABLE IF NOT EXISTS objects (key TEXT PRIMARY KEY, id BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images (
    id BLOB, policy TEXT, format TEXT, width INT, height INT, phash BLOB, reason TEXT, PRIMARY KEY (id, policy)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS places (id BLOB PRIMARY KEY, shard TEXT, offset INT, nbytes INT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shards (name TEXT PRIMARY KEY, size INT, mtime_ns INT, turn INT) WITHOUT ROWID;
"""


class Place(NamedTuple):
    """Where the bytes of an image are among the kept shards."""

    shard: str
    offset: int
    nbytes: int


class Finding(NamedTuple):
    """What is known about an object of a source."""

    id: str
    """SHA-256 of its bytes, hexadecimal."""
    place: Place | None
    """Where they are kept; None for what is in no shard."""
    verdict: "Verdict | None"
    """What decoding gave; None if only the bytes are known."""


class Verdict(NamedTuple):
    """What decoding gave; columns of the manifest."""

    format: str | None
    width: int | None
    height: int | None
    phash: int | None
    reason: str | None


class KeptShards:
    """The folder of kept shards; picklable."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, image_id: str, place: Place) -> bytes | None:
        """The bytes of an image; None if they are gone or damaged."""
        try:
            with (self.folder / place.shard).open("rb") as file:
                data = os.pread(file.fileno(), place.nbytes, place.offset)
        except OSError:
            return None
        return data if hashlib.sha256(data).hexdigest() == image_id else None


class IngestCache:
    """Findings in one SQLite file, and finished shards beside it; use as a context.

    Several ingests may use it at a time; the last of them cleans up.

    Args:
        folder: made if absent.
        policy: identifies the code and the parameters that the findings depend on.
        verify: read and hash a kept shard before it is used again as it is.
        forgotten: images that must never be used; a shard that holds one is dropped when this run has no use for it.

    Raises:
        UserError: when entered, if the folder cannot be made.
    """

    def __init__(self, folder: Path, policy: str, *, verify: bool = False, forgotten: Collection[str] = ()) -> None:
        self.folder = folder / "shards"
        self.kept = KeptShards(self.folder)
        self._root = folder
        self._policy = policy
        self._verify = verify
        self._forgotten = forgotten
        self._held = ExitStack()
        self._whole: set[str] = set()
        self._used: set[str] = set()
        self._objects: list[tuple[str, bytes]] = []
        self._images: list[tuple[object, ...]] = []
        self._next_flush = 0.0

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            remedy = "set SELFSIGHT_CACHE_DIR to a folder that can be written"
            raise UserError(f"{self.folder}: {error.strerror}", remedy=remedy) from None
        self._lock = self._held.enter_context(shared_lock(self._root / "lock"))
        with self._lock.alone() as alone:
            for partial in self.folder.glob(_PARTIAL) if alone else ():
                partial.unlink(missing_ok=True)
        self._database = self._held.enter_context(CacheFile(self._root / "index.sqlite", _TABLES))
        self._whole = {name for name, *stamp in self._shards() if _stamp(self.folder / name) == tuple(stamp)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._flush()
            self._database.write(("UPDATE shards SET turn = 0 WHERE name = ?", [(one,) for one in self._used]))
            with self._lock.alone() as alone:
                if error is None and alone:
                    self._settle()
        finally:
            self._held.close()

    def recall(self, keys: Sequence[str]) -> dict[str, Finding]:
        """What is known about objects, by key."""
        ids = {key: _digits(key) for key in keys if key.startswith(SHA256)}
        others = [key for key in keys if not key.startswith(SHA256)]
        for some in _some(others):
            ids |= self._database.rows(_OBJECTS.format(_marks(some)), some)
        known: dict[bytes, Finding] = {}
        for part in _some(list(ids.values())):
            for one, *row in self._database.rows(_FINDINGS.format(_marks(part, "(?)")), (*part, self._policy)):
                known[one] = self._finding(one, *row)
        return {key: known[one] for key, one in ids.items() if one in known}

    def remember(self, key: str, image_id: str, verdict: Verdict) -> None:
        """Notes what was found out about an object.

        Args:
            key: of the object; what begins with `sha256:` is followed by the id itself.
            image_id: SHA-256 of its bytes.
            verdict: what decoding gave.
        """
        one = bytes.fromhex(image_id)
        phash = None if verdict.phash is None else verdict.phash.to_bytes(8, "big")
        if not key.startswith(SHA256):
            self._objects.append((key, one))
        self._images.append((one, self._policy, *verdict[:3], phash, verdict.reason))
        if time.monotonic() >= self._next_flush:
            self._flush()

    def link(self, name: str, members: Sequence[Member], path: Path) -> bool:
        """Puts a kept shard at `path`; False if there is none of that name, or it is damaged."""
        if name not in self._whole or (self._verify and not is_whole(self.folder / name, members)):
            return False
        try:
            place_link(self.folder / name, path)
        except FileNotFoundError:
            return False
        self._used.add(name)
        return True

    def keep(self, partial: Path, name: str, members: Sequence[Member], path: Path) -> None:
        """Puts a finished, synced file of the folder at `path`, and keeps it under its name."""
        place_link(partial, path)
        partial.replace(self.folder / name)
        size, mtime_ns = _stamp(self.folder / name) or (0, 0)
        rows = [(bytes.fromhex(one.id), name, one.offset, one.nbytes) for one in members]
        self._flush()
        self._database.write(("INSERT OR REPLACE INTO shards VALUES (?, ?, ?, 0)", [(name, size, mtime_ns)]),
                             ("INSERT OR REPLACE INTO places VALUES (?, ?, ?, ?)", rows))  # fmt: skip
        self._used.add(name)

    def _finding(self, one: bytes, decoded: int, *columns: object) -> Finding:
        form, width, height, phash, reason, shard, offset, nbytes = columns
        place = Place(shard, offset, nbytes) if shard in self._whole else None  # type: ignore[arg-type]
        hashed = int.from_bytes(phash, "big") if isinstance(phash, bytes) else None
        verdict = Verdict(form, width, height, hashed, reason) if decoded else None  # type: ignore[arg-type]
        if verdict is not None and verdict.reason is None and place is None:
            verdict = None  # an image whose bytes have to be read is decoded again as well
        return Finding(one.hex(), place, verdict)

    def _shards(self) -> list[tuple[str, int, int]]:
        return self._database.rows("SELECT name, size, mtime_ns FROM shards")

    def _flush(self) -> None:
        images = sorted(self._images, key=itemgetter(0))
        self._database.write(("INSERT OR REPLACE INTO objects VALUES (?, ?)", self._objects),
                             ("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?)", images))  # fmt: skip
        self._objects, self._images = [], []
        self._next_flush = time.monotonic() + SECONDS

    def _settle(self) -> None:
        """Drops shards that some runs had no use for, files that no row names, and findings of other code."""
        unwanted = [(name,) for name, *_ in self._shards() if name not in self._used and self._holds_forgotten(name)]
        self._database.write(
            ("UPDATE shards SET turn = turn + 1", [()]),
            ("UPDATE shards SET turn = 0 WHERE name = ?", [(one,) for one in self._used]),
            ("DELETE FROM shards WHERE turn > ?", [(KEPT_TURNS,)]),
            ("DELETE FROM shards WHERE name = ?", unwanted),
            ("DELETE FROM places WHERE shard NOT IN (SELECT name FROM shards)", [()]),
            ("DELETE FROM images WHERE policy != ?", [(self._policy,)]),
            ("DELETE FROM objects WHERE key LIKE ?", [(f"{SHA256}%",)]),  # of earlier versions
            ("DELETE FROM objects WHERE id NOT IN (SELECT id FROM images UNION SELECT id FROM places)", [()]),
        )
        named = {name for name, *_ in self._shards()}
        for path in self.folder.iterdir():
            if path.name not in named:
                path.unlink(missing_ok=True)

    def _holds_forgotten(self, name: str) -> bool:
        """Whether a shard holds a forgotten image: rows do not tell, they name the latest shard of an image."""
        if not self._forgotten:
            return False
        try:
            with tarfile.open(self.folder / name, "r:") as shard:
                return any(one.name.partition(".")[0] in self._forgotten for one in shard)
        except (OSError, tarfile.TarError):
            return True


def _digits(key: str) -> bytes:
    return bytes.fromhex(key.removeprefix(SHA256))


def _some(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Parts of what is asked, each not too long for one query."""
    return (values[start : start + _KEYS] for start in range(0, len(values), _KEYS))


def _marks(values: Sequence[object], mark: str = "?") -> str:
    return ", ".join([mark] * len(values))


def policy_of(code: Iterable[Path], values: Mapping[str, object]) -> str:
    """Identifies code and parameters: a hash of the files' content and of the values."""
    found = hashlib.sha256(repr(sorted(values.items())).encode())
    for path in sorted(code):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of last change; None if there is no such file."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_size, stat.st_mtime_ns


_OBJECTS = "SELECT key, id FROM objects WHERE key IN ({})"
_FINDINGS = """
WITH wanted(id) AS (VALUES {})
SELECT wanted.id, images.id IS NOT NULL, format, width, height, phash, reason, shard, offset, nbytes
FROM wanted LEFT JOIN images ON images.id = wanted.id AND policy = ? LEFT JOIN places ON places.id = wanted.id
WHERE images.id IS NOT NULL OR places.id IS NOT NULL
"""
