"""What runs in a worker: chunks of items, each within bounds of processor time and memory that the kernel enforces."""

import contextlib
import multiprocessing
import os
import resource
import signal
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_int64
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

NOTHING = -1
"""No item is at work."""
Began = Callable[[int], None]
"""Called with the place of an item in its chunk before work that a hostile item may spoil, and with `NOTHING` after."""
Work = Callable[[Sequence[Any], Began], Sequence[Any]]
_DATA_AND_STACK = 5
"""Field of `/proc/self/statm`, pages."""


class Bounds(NamedTuple):
    """What an item may take."""

    seconds: float
    """Processor time of one item."""
    nbytes: int
    """Memory of a worker beyond what it has when it starts, bytes."""


def serve(connection: Connection, at: "c_int64", work: Work, bounds: Bounds, environment: Mapping[str, str]) -> None:
    """Answers each chunk that is sent with `(results, None)` or `(None, exception)`, until nobody sends any more.

    Args:
        connection: to the process that sends.
        at: shared with it: the item at work, so that it knows which one a dead worker died of.
        work: what to do with a chunk.
        bounds: an item that takes more processor time ends this process with SIGPROF; memory beyond the bound is
            refused (`MemoryError`).
        environment: of the process that sends: a forked one has that of when the first was forked.
    """
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    warnings.simplefilter("ignore")  # decoders warn about every odd file; what counts is the reason they return
    threading.Thread(target=_follow_parent, daemon=True).start()
    _limit_memory(bounds.nbytes)

    def began(place: int) -> None:
        at.value = place
        # the default action of the signal ends the process in the midst of C code, which no handler of Python would
        signal.setitimer(signal.ITIMER_PROF, 0.0 if place == NOTHING else bounds.seconds)

    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            connection.send(_answer(work, connection.recv(), began))


def _answer(work: Work, chunk: Sequence[Any], began: Began) -> tuple[Sequence[Any] | None, Exception | None]:
    try:
        return work(chunk, began), None
    except Exception as error:
        return None, error
    finally:
        began(NOTHING)


def _limit_memory(nbytes: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[_DATA_AND_STACK])
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = pages * resource.getpagesize() + nbytes
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _follow_parent() -> None:
    """Ends this worker when the stage is gone, however it ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
