"""SHA-256 of files, remembered, so that a second snapshot of a large source reads nothing again."""

import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

_log = logging.getLogger(__name__)
CHUNK = 1 << 20
SETTLED_NS = 2_000_000_000
"""A file changed less than this ago may change again within one tick of the clock: it is not remembered."""
BATCH = 4096


def digest_of(data: bytes) -> str:
    """The digest of an object whose bytes are at hand: `sha256:` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_of_parts(parts: Iterable[bytes]) -> str:
    """The digest of bytes that come in parts, in constant memory."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return f"sha256:{found.hexdigest()}"


def digest_of_file(file: BinaryIO) -> str:
    """The digest of what follows in an open file, in constant memory."""
    return digest_of_parts(iter(lambda: file.read(CHUNK), b""))


class Stamp(NamedTuple):
    """What tells that a file is still the one that was hashed."""

    key: str
    """Absolute path, for a member of an archive with its name."""
    size: int
    mtime_ns: int
    ctime_ns: int
    """Time of the last change that no program sets: a file replaced with size and mtime kept has another one."""


class DigestCache:
    """Digests by (path, size, times of last change) in one SQLite file.

    Args:
        path: the file; losing it costs time only.
        workers: threads that hash; hashing and reading do not hold the interpreter's lock.
    """

    def __init__(self, path: Path, workers: int = 4) -> None:
        self.path = path
        self.workers = workers

    def digests(self, stamps: Iterable[Stamp], compute: Callable[[Stamp], str]) -> Iterator[str]:
        """Yields the digest of each stamp in order, computing those that are not remembered."""
        pending = iter(stamps)
        with closing(self._connect()) as database, ThreadPoolExecutor(self.workers) as pool:
            while batch := list(islice(pending, BATCH)):
                known = _lookup(database, batch)
                missing = [one for one in batch if one.key not in known]
                before = time.time_ns() - SETTLED_NS
                fresh = dict(zip((one.key for one in missing), pool.map(compute, missing), strict=True))
                settled = [one for one in missing if max(one.mtime_ns, one.ctime_ns) < before]
                _remember(database, [(*one, fresh[one.key]) for one in settled])
                for one in batch:
                    yield known[one.key] if one.key in known else fresh[one.key]

    def _connect(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return _opened(str(self.path))
        except (sqlite3.DatabaseError, OSError) as error:
            _log.warning("%s cannot be used (%s): digests are computed anew", self.path, error)
            if type(error) is sqlite3.DatabaseError:  # damaged, not merely locked or out of reach
                self.path.unlink(missing_ok=True)
            return _opened(":memory:")


def _opened(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=60)
    try:
        # the write-ahead log keeps a second snapshot at the same time from waiting; sync is not needed for a cache
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute("DROP TABLE IF EXISTS digests")  # of a version that did not look at the ctime
        database.execute(
            "CREATE TABLE IF NOT EXISTS stamped_digests "
            "(path TEXT PRIMARY KEY, size INT, mtime_ns INT, ctime_ns INT, digest TEXT)"
        )
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database


def _remember(database: sqlite3.Connection, rows: Sequence[tuple[str | int, ...]]) -> None:
    try:
        with database:
            database.executemany("INSERT OR REPLACE INTO stamped_digests VALUES (?, ?, ?, ?, ?)", rows)
    except sqlite3.OperationalError as error:
        _log.warning("digests are not remembered: %s", error)


def _lookup(database: sqlite3.Connection, stamps: Sequence[Stamp]) -> dict[str, str]:
    found: dict[str, str] = {}
    query = "SELECT digest FROM stamped_digests WHERE path = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ?"
    for one in stamps:
        row = database.execute(query, one).fetchone()
        if row is not None:
            found[one.key] = row[0]
    return found
