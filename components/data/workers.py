"""Work on many objects in several processes, in order and in bounded memory."""

import multiprocessing
import os
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from components.errors import UserError

T = TypeVar("T")
R = TypeVar("R")
CHUNKS_AHEAD = 2
"""Chunks in flight for each worker."""
_WATCH_SECONDS = 0.5


def chunked(
    items: Iterable[T], size: Callable[[T], int], *, max_items: int = 64, max_size: int = 16 << 20
) -> Iterator[list[T]]:
    """Cuts items into chunks of bounded number and size; an item that is larger alone makes a chunk of its own."""
    chunk: list[T] = []
    total = 0
    for item in items:
        nbytes = size(item)
        if chunk and (len(chunk) == max_items or total + nbytes > max_size):
            yield chunk
            chunk, total = [], 0
        chunk.append(item)
        total += nbytes
    if chunk:
        yield chunk


def map_chunks(
    work: Callable[[Sequence[T]], Sequence[R]], chunks: Iterable[Sequence[T]], *, workers: int
) -> Generator[R, None, None]:
    """Yields the results of `work` over chunks, in the order of the chunks, whatever the number of workers.

    At most `2 · workers + 1` chunks are in memory.

    Args:
        work: picklable function of a chunk; sent to each worker once.
        chunks: the input.
        workers: processes; 1 works in this one.

    Raises:
        UserError: if the system killed a worker, and whatever `work` raises.
    """
    if workers <= 1:
        for chunk in chunks:
            yield from work(chunk)
        return
    # not fork: the stage has threads of its own, and a forked lock may stay locked
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(work, os.getpid()))
    pending: deque[Future[Sequence[R]]] = deque()
    try:
        for chunk in chunks:
            pending.append(pool.submit(_run, chunk))
            if len(pending) > CHUNKS_AHEAD * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    except BrokenProcessPool:
        remedy = "most likely memory ran out: lower ingest.max_pixels, or SELFSIGHT_THREADS for fewer workers"
        raise UserError("a worker process was killed", remedy=remedy) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_work: Callable[[Sequence[Any]], Sequence[Any]] | None = None


def _start(work: Callable[[Sequence[Any]], Sequence[Any]], parent: int) -> None:
    global _work
    _work = work
    warnings.simplefilter("ignore")  # decoders warn about every odd file; what counts is the reason they return
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _run(chunk: Sequence[Any]) -> Sequence[Any]:
    assert _work is not None
    return _work(chunk)


def _follow(parent: int) -> None:
    """Ends this worker when the stage is gone, however it ended: the pool alone would leave it waiting."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)
