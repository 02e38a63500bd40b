"""What files that hold many images hold, remembered, so that a second snapshot opens only those that are new."""

import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from components.data.cache_file import CacheFile
from components.data.lock import Annotation
from components.data.sources.digests import Stamp, is_settled

T = TypeVar("T")
R = TypeVar("R")
BATCH = 4096
_TABLE = (
    "CREATE TABLE IF NOT EXISTS listings "
    "(path TEXT, reader TEXT, size INT, mtime_ns INT, ctime_ns INT, members BLOB, PRIMARY KEY (path, reader))"
)


class Member(NamedTuple):
    """One file, row or frame inside a file."""

    name: str
    size: int | None
    """Bytes, where they are known without reading."""
    digest: str
    """Empty for what is no image of the source, and was not read."""
    annotation: Annotation | None = None


class ListingCache:
    """Members of files by (path, reader, size, times of last change) in one SQLite file.

    Args:
        path: the file; losing it costs time only.
        workers: threads that hash.
    """

    def __init__(self, path: Path, workers: int = 4) -> None:
        self.path = path
        self.workers = workers

    def members(self, stamp: Stamp, reader: str, scan: Callable[[], Iterable[Member]]) -> list[Member]:
        """The members of a file.

        Args:
            stamp: of the file.
            reader: what else the answer depends on: kind of file, patterns.
            scan: reads the file; called where the answer is not remembered.
        """
        with CacheFile(self.path, _TABLE) as database:
            rows = database.rows(
                "SELECT members FROM listings WHERE path = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ? "
                "AND reader = ?",
                (*stamp, reader),
            )
            known = _unpacked(rows[0][0]) if rows else None
            if known is not None:
                return known
            before = time.time_ns()
            found = list(scan())
            if is_settled(stamp, before):
                _keep(database, stamp, reader, found)
            return found


def in_threads(work: Callable[[T], R], items: Iterable[T], threads: int) -> Iterator[R]:
    """Yields the results of `work` in order; a bounded number of items is waiting."""
    pending = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        while batch := list(islice(pending, BATCH)):
            yield from pool.map(work, batch)


def _keep(database: CacheFile, stamp: Stamp, reader: str, members: list[Member]) -> None:
    rows = [(name, size, digest, said and (said.label, said.group, said.frame)) for name, size, digest, said in members]
    packed = zlib.compress(json.dumps(rows).encode(), level=1)
    row = (stamp.key, reader, stamp.size, stamp.mtime_ns, stamp.ctime_ns, packed)
    database.write(("INSERT OR REPLACE INTO listings VALUES (?, ?, ?, ?, ?, ?)", [row]))


def _unpacked(packed: bytes) -> list[Member] | None:
    """The members of a row; None if it is damaged."""
    try:
        rows = json.loads(zlib.decompress(packed))
        return [Member(name, size, digest, said and Annotation(*said)) for name, size, digest, said in rows]
    except (zlib.error, ValueError, TypeError):
        return None
