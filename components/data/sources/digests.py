"""SHA-256 of files, remembered, so that a second snapshot of a large source reads nothing again."""

import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

_log = logging.getLogger(__name__)
CHUNK = 1 << 20
SETTLED_NS = 2_000_000_000
"""A file changed less than this ago may change again within one tick of the clock: it is not remembered."""
BATCH = 4096


def digest_of(data: bytes) -> str:
    """The digest of an object whose bytes are at hand: `sha256:` and 64 hexadecimal digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def digest_of_file(file: BinaryIO, nbytes: int | None = None) -> str:
    """The digest of what follows in an open file, `nbytes` of it or all, in constant memory."""
    found = hashlib.sha256()
    left = nbytes if nbytes is not None else -1
    while left and (chunk := file.read(CHUNK if left < 0 else min(CHUNK, left))):
        found.update(chunk)
        left -= len(chunk) if left > 0 else 0
    return f"sha256:{found.hexdigest()}"


@dataclass(frozen=True)
class Stamp:
    """What tells that a file is still the one that was hashed."""

    key: str
    """Absolute path, for a member of an archive with its name."""
    size: int
    mtime_ns: int


class DigestCache:
    """Digests by (path, size, time of last change) in one SQLite file.

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
                rows = [(one.key, one.size, one.mtime_ns, fresh[one.key]) for one in missing if one.mtime_ns < before]
                _remember(database, rows)
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
        database.execute(
            "CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, size INT, mtime_ns INT, digest TEXT)"
        )
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database


def _remember(database: sqlite3.Connection, rows: Sequence[tuple[str, int, int, str]]) -> None:
    try:
        with database:
            database.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?)", rows)
    except sqlite3.OperationalError as error:
        _log.warning("digests are not remembered: %s", error)


def _lookup(database: sqlite3.Connection, stamps: Sequence[Stamp]) -> dict[str, str]:
    found: dict[str, str] = {}
    query = "SELECT digest FROM digests WHERE path = ? AND size = ? AND mtime_ns = ?"
    for one in stamps:
        row = database.execute(query, (one.key, one.size, one.mtime_ns)).fetchone()
        if row is not None:
            found[one.key] = row[0]
    return found
