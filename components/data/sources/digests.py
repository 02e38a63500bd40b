"""SHA-256 of files, remembered, so that a second snapshot of a large source reads nothing again."""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from components.data.cache_file import CacheFile
from components.errors import UserError

SHA256, ETAG = "sha256:", "etag:"
"""What the digest of an object begins with: a hash of its bytes, or what a bucket says of them."""
CHUNK = 1 << 20
SETTLED_NS = 2_000_000_000
"""A file changed less than this ago may change again within one tick of the clock: it is not remembered."""
BATCH = 4096
_TABLE = (
    "CREATE TABLE IF NOT EXISTS stamped_digests "
    "(path TEXT PRIMARY KEY, size INT, mtime_ns INT, ctime_ns INT, digest TEXT)"
)


def digest_of(data: bytes) -> str:
    """The digest of an object whose bytes are at hand: `sha256:` and 64 hexadecimal digits."""
    return f"{SHA256}{hashlib.sha256(data).hexdigest()}"


def digest_of_parts(parts: Iterable[bytes]) -> str:
    """The digest of bytes that come in parts, in constant memory."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return f"{SHA256}{found.hexdigest()}"


def digest_of_file(file: BinaryIO) -> str:
    """The digest of what follows in an open file, in constant memory."""
    return digest_of_parts(iter(lambda: file.read(CHUNK), b""))


def digest_of_path(path: Path) -> str:
    """The digest of a file.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return digest_of_file(file)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}", remedy="make it readable, or exclude it") from None


class Stamp(NamedTuple):
    """What tells that a file is still the one that was hashed."""

    key: str
    """Absolute path, for a member of an archive with its name."""
    size: int
    mtime_ns: int
    ctime_ns: int
    """Time of the last change that no program sets: a file replaced with size and mtime kept has another one."""

    @classmethod
    def of(cls, key: str, stat: os.stat_result) -> "Stamp":
        """The stamp of a file of this state."""
        return cls(key, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


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
        """Yields the digest of each stamp in order, computing those that are not remembered; empty ones never are."""
        pending = iter(stamps)
        with CacheFile(self.path, _TABLE) as database, ThreadPoolExecutor(self.workers) as pool:
            while batch := list(islice(pending, BATCH)):
                known = _lookup(database, batch)
                missing = [one for one in batch if one.key not in known]
                before = time.time_ns()
                fresh = dict(zip((one.key for one in missing), pool.map(compute, missing), strict=True))
                rows = [(*one, fresh[one.key]) for one in missing if fresh[one.key] and is_settled(one, before)]
                database.write(("INSERT OR REPLACE INTO stamped_digests VALUES (?, ?, ?, ?, ?)", rows))
                for one in batch:
                    yield known[one.key] if one.key in known else fresh[one.key]


def is_settled(stamp: Stamp, now_ns: int) -> bool:
    """Whether a file last changed long enough ago for a further change to show in its times."""
    return max(stamp.mtime_ns, stamp.ctime_ns) < now_ns - SETTLED_NS


def _lookup(database: CacheFile, stamps: Sequence[Stamp]) -> dict[str, str]:
    found: dict[str, str] = {}
    query = "SELECT digest FROM stamped_digests WHERE path = ? AND size = ? AND mtime_ns = ? AND ctime_ns = ?"
    for one in stamps:
        for (digest,) in database.rows(query, one):
            found[one.key] = digest
    return found
