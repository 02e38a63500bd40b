"""Work on many objects in several processes that may die of one: in order, in bounded memory, none lost."""

import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from multiprocessing.reduction import ForkingPickler
from typing import Any, TypeVar

from components.data.worker_process import NOTHING, Bounds, Work, serve
from components.errors import UserError

T = TypeVar("T")
R = TypeVar("R")
Refuse = Callable[[T, str], R]
"""Makes the result of an item that its worker died of, from the item and the reason."""

TOO_SLOW = "too-slow"
CRASHED = "decoder-crashed"
_PRELOADED = ("jaxtyping", "numpy", "PIL.Image", "pyarrow.parquet", "pydantic_settings", "sqlite3")
CHUNKS_AHEAD = 2
"""Chunks in flight for each worker: the next is there when it has finished one."""
_AHEAD = 1 << 16
"""Bytes of a chunk that is sent to a worker at work: the connection holds so many, and nobody has to wait."""
_WAITING = 1 << 20
"""Bytes of answers that may wait to be read; the system may grant less."""
_REMEDY = "lower ingest.max_pixels, or SELFSIGHT_THREADS for fewer workers"
_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT)
_REASONS: dict[int, str] = {signal.SIGPROF: TOO_SLOW, **dict.fromkeys(_CRASHES, CRASHED)}


def map_chunks(
    work: Work, chunks: Iterable[Sequence[T]], *, workers: int, bounds: Bounds, refuse: Refuse[T, R]
) -> Generator[list[R], None, None]:
    """Yields the results of each chunk, in the order of the chunks, whatever the number of workers.

    At most `2 · workers + 1` chunks are in memory. Workers are started when there is something for them. An item that
    takes too long, or crashes its worker, is refused; the others of its chunk are worked on again.

    Args:
        work: picklable function of a chunk; sent to each worker once. It calls `began` around what may go wrong.
        chunks: the input.
        workers: processes at most.
        bounds: what an item may take.
        refuse: makes the result of an item that its worker died of, in this process.

    Raises:
        UserError: if the system killed a worker, and whatever `work` raises.
    """
    pool = _Pool(work, max(workers, 1), bounds, refuse)
    tasks: deque[_Task] = deque()
    try:
        for chunk in chunks:
            tasks.append(pool.add(chunk))
            while len(tasks) > CHUNKS_AHEAD * pool.size:
                yield pool.finished(tasks.popleft())
        while tasks:
            yield pool.finished(tasks.popleft())
    finally:
        pool.close()


@dataclass
class _Task:
    items: Sequence[Any]
    results: list[Any]
    todo: list[int] = field(default_factory=list)
    """Places of the items without a result."""

    def pickled(self) -> bytes:
        return bytes(ForkingPickler.dumps([self.items[place] for place in self.todo]))


class _Worker:
    def __init__(self, context: ForkServerContext, work: Work, bounds: Bounds) -> None:
        self.tasks: deque[_Task] = deque()
        """What it was given, the one at work first."""
        self.at = context.RawValue("q", NOTHING)
        self.connection, theirs = context.Pipe()
        for end in (self.connection, theirs):
            _widen(end)
        self.process = context.Process(
            target=serve, args=(theirs, self.at, work, bounds, dict(os.environ)), daemon=True
        )
        self.process.start()
        theirs.close()

    def begin(self, task: _Task, data: bytes) -> None:
        self.tasks.append(task)
        self.connection.send_bytes(data)

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.connection.close()


class _Pool:
    def __init__(self, work: Work, size: int, bounds: Bounds, refuse: Refuse[Any, Any]) -> None:
        self.size = size
        self._work = work
        self._bounds = bounds
        self._refuse = refuse
        self._context = _context()
        self._workers: list[_Worker] = []
        self._waiting: deque[_Task] = deque()

    def add(self, items: Sequence[Any]) -> _Task:
        task = _Task(items, [None] * len(items), list(range(len(items))))
        if items:
            self._waiting.append(task)
            self._assign()
        return task

    def finished(self, task: _Task) -> list[Any]:
        """Waits for the results of a task."""
        while task.todo:
            busy = {worker.connection: worker for worker in self._workers if worker.tasks}
            for connection in wait(list(busy)):
                self._take(busy[connection])  # type: ignore[index]
            self._assign()
        return task.results

    def close(self) -> None:
        while self._workers:
            self._workers.pop().close()

    def _assign(self) -> None:
        while self._waiting:
            worker = min(self._workers, key=lambda one: len(one.tasks), default=None)
            if worker is None or (worker.tasks and len(self._workers) < self.size):
                worker = _Worker(self._context, self._work, self._bounds)
                self._workers.append(worker)
            if len(worker.tasks) == CHUNKS_AHEAD:
                return
            data = self._waiting[0].pickled()
            if worker.tasks and len(data) > _AHEAD:
                return
            try:
                worker.begin(self._waiting.popleft(), data)
            except OSError:  # it is dead
                self._bury(worker)

    def _take(self, worker: _Worker) -> None:
        """Takes the answer of a worker, or finds out what it died of."""
        try:
            results, error = worker.connection.recv()
        except (EOFError, OSError):  # it died before it answered, or while it did
            self._bury(worker)
            return
        task = worker.tasks.popleft()
        if isinstance(error, MemoryError):
            raise UserError("a worker process has no memory left", remedy=_REMEDY)
        if error is not None:
            raise error
        for place, result in zip(task.todo, results, strict=True):
            task.results[place] = result
        task.todo = []

    def _bury(self, worker: _Worker) -> None:
        worker.process.join()
        code, at = worker.process.exitcode, worker.at.value
        self._workers.remove(worker)
        worker.close()
        reason = _REASONS.get(-code) if code is not None else None
        if reason is None or at == NOTHING:
            remedy = f"most likely memory ran out: {_REMEDY}"
            raise UserError(f"a worker process was killed (exit code {code})", remedy=remedy)
        task = worker.tasks[0]
        place = task.todo.pop(at)
        task.results[place] = self._refuse(task.items[place], reason)
        self._waiting.extendleft(one for one in reversed(worker.tasks) if one.todo)


def _widen(connection: Connection) -> None:
    """Lets answers wait in the connection, so that a worker goes on while this process is busy."""
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _WAITING)


@cache
def _context() -> ForkServerContext:
    """Workers are forked from a process without threads that has imported what takes long to import.

    It imports nothing of this project: where a module of that name is found depends on the folder it is started in.
    """
    context = get_context("forkserver")
    context.set_forkserver_preload(list(_PRELOADED))
    return context
