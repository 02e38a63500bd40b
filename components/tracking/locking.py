"""Advisory file locks between processes of one machine; the kernel drops them when a process dies."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(path: Path, *, blocking: bool = True, shared: bool = False) -> Iterator[bool]:
    """Holds a lock on `path` for the length of the block.

    Args:
        path: the lock file; made, with its folder, if absent, and never removed.
        blocking: wait for the lock; otherwise yield False at once when another process holds it.
        shared: several may hold it at a time, but none while another has it for itself alone.

    Yields:
        Whether the lock is held.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            fcntl.flock(file, kind | (0 if blocking else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
