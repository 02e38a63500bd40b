"""What ingest remembers between runs, outside the outs: what was found out about images, and the shards they are in.

Losing it costs time only. Nothing in it is believed that could change the outs: findings are those of this very code
and these parameters, bytes are compared with their SHA-256 before they enter a shard.
"""

import hashlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from components.data.linking import place_link
from components.data.shard_writer import Member, is_whole
from components.errors import UserError
from components.tracking.locking import file_lock

_log = logging.getLogger(__name__)
ROWS = 2048
"""Findings that are written at a time; a kill loses at most so many."""
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

    Several ingests may use it at a time; the first of them cleans up.

    Args:
        folder: made if absent.
        policy: identifies the code and the parameters that the findings depend on.
        verify: read and hash a kept shard before it is used again as it is.

    Raises:
        UserError: when entered, if the folder cannot be made.
    """

    def __init__(self, folder: Path, policy: str, *, verify: bool = False) -> None:
        self.folder = folder / "shards"
        self.kept = KeptShards(self.folder)
        self._root = folder
        self._policy = policy
        self._verify = verify
        self._held = ExitStack()
        self._whole: set[str] = set()
        self._used: set[str] = set()
        self._objects: list[tuple[str, bytes]] = []
        self._images: list[tuple[object, ...]] = []

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except (PermissionError, FileExistsError, NotADirectoryError) as error:
            remedy = "set SELFSIGHT_CACHE_DIR to a folder that can be written"
            raise UserError(f"{self.folder}: {error.strerror}", remedy=remedy) from None
        self._alone = self._held.enter_context(file_lock(self._root / "lock", blocking=False))
        self._database = _opened(self._root / "index.sqlite")
        self._held.callback(self._database.close)
        if self._alone:
            for partial in self.folder.glob(_PARTIAL):
                partial.unlink(missing_ok=True)
        self._whole = {name for name, *stamp in self._shards() if _stamp(self.folder / name) == tuple(stamp)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._flush()
            if error is None and self._alone:
                self._settle()
        finally:
            self._held.close()

    def recall(self, keys: Sequence[str]) -> dict[str, Finding]:
        """What is known about objects, by key."""
        found = {}
        for start in range(0, len(keys), _KEYS):
            some = keys[start : start + _KEYS]
            query = _RECALL.format(", ".join("?" * len(some)))
            for row in self._database.execute(query, (self._policy, *some)):
                found[row[0]] = self._finding(*row[1:])
        return found

    def remember(self, key: str, image_id: str, verdict: Verdict) -> None:
        """Notes what was found out about an object.

        Args:
            key: of the object.
            image_id: SHA-256 of its bytes.
            verdict: what decoding gave.
        """
        one = bytes.fromhex(image_id)
        phash = None if verdict.phash is None else verdict.phash.to_bytes(8, "big")
        self._objects.append((key, one))
        self._images.append((one, self._policy, *verdict[:3], phash, verdict.reason))
        if len(self._images) >= ROWS:
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
        self._write(("INSERT OR REPLACE INTO shards VALUES (?, ?, ?, 0)", [(name, size, mtime_ns)]),
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
        return self._database.execute("SELECT name, size, mtime_ns FROM shards").fetchall()

    def _flush(self) -> None:
        self._write(("INSERT OR REPLACE INTO objects VALUES (?, ?)", self._objects),
                    ("INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?)", self._images))  # fmt: skip
        self._objects, self._images = [], []

    def _write(self, *statements: tuple[str, Sequence[tuple[object, ...]]]) -> None:
        """All or none of the statements, each with its rows; a database that takes none costs time the next time."""
        try:
            with self._database:
                for statement, rows in statements:
                    self._database.executemany(statement, rows)
        except sqlite3.OperationalError as error:
            _log.warning("what ingest found out is not remembered: %s", error)

    def _settle(self) -> None:
        """Drops shards that some runs had no use for, files that no row names, and findings of other code."""
        self._write(
            ("UPDATE shards SET turn = turn + 1", [()]),
            ("UPDATE shards SET turn = 0 WHERE name = ?", [(one,) for one in self._used]),
            ("DELETE FROM shards WHERE turn > ?", [(KEPT_TURNS,)]),
            ("DELETE FROM places WHERE shard NOT IN (SELECT name FROM shards)", [()]),
            ("DELETE FROM images WHERE policy != ?", [(self._policy,)]),
        )
        named = {name for name, *_ in self._shards()}
        for path in self.folder.iterdir():
            if path.name not in named:
                path.unlink(missing_ok=True)


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


def _opened(path: Path) -> sqlite3.Connection:
    """The database; one that cannot be used is made anew, or in memory where that cannot be done either."""
    try:
        return _with_tables(str(path))
    except sqlite3.DatabaseError as error:
        _log.warning("%s cannot be used (%s): every image is read again", path, error)
        if type(error) is sqlite3.DatabaseError:  # damaged, not merely locked or out of reach
            path.unlink(missing_ok=True)
    return _with_tables(":memory:")


def _with_tables(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=60)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")  # a power cut may lose rows, never damage
        database.executescript(_TABLES)
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database


_RECALL = """
SELECT objects.key, objects.id, images.id IS NOT NULL, format, width, height, phash, reason, shard, offset, nbytes
FROM objects LEFT JOIN images ON images.id = objects.id AND policy = ? LEFT JOIN places ON places.id = objects.id
WHERE objects.key IN ({})
"""
