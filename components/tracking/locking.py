"""Advisory file locks between processes of one machine; the kernel drops them when a process dies."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def file_lock(path: Path, *, blocking: bool = True) -> Iterator[bool]:
    """Holds an exclusive lock on `path` for the length of the block.

    Args:
        path: the lock file; made, with its folder, if absent, and never removed.
        blocking: wait for the lock; otherwise yield False at once when another process holds it.

    Yields:
        Whether the lock is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if blocking else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


class SharedLock:
    """A lock that many processes hold at a time; the only one of them may do what would disturb others.

    Args:
        file: open lock file; closing it gives the lock back.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Keeps others out for the length of the block; yields False, at once, when another process holds the lock."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._file, fcntl.LOCK_SH)  # what fails has given up the lock that there was
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self._file, fcntl.LOCK_SH)


@contextmanager
def shared_lock(path: Path) -> Iterator[SharedLock]:
    """Holds a shared lock on `path` for the length of the block; waits while another process holds it alone.

    Args:
        path: the lock file; made, with its folder, if absent, and never removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield SharedLock(file)
