import ctypes
import itertools
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from components.data.worker_process import Bounds
from components.data.workers import map_chunks
from components.errors import UserError

BOUNDS = Bounds(seconds=1.0, nbytes=64 << 20)
Began = Callable[[int], None]


def double(chunk: Sequence[int], began: Began) -> list[int]:
    time.sleep(0.02 * (7 - chunk[0] % 7) / 7)  # later chunks are often done first
    return [2 * item for item in chunk]


def mirrored(chunk: Sequence[bytes], began: Began) -> Sequence[bytes]:
    return chunk


def exhausted(chunk: Sequence[int], began: Began) -> Sequence[int]:
    raise MemoryError


def fail_at_five(chunk: Sequence[int], began: Began) -> list[int]:
    if 5 in chunk:
        raise UserError("item 5", remedy="leave it out")
    return list(chunk)


def die(chunk: Sequence[int], began: Began) -> list[int]:
    began(0)
    os.kill(os.getpid(), signal.SIGKILL)
    return list(chunk)


def hostile(chunk: Sequence[int], began: Began) -> list[int]:
    """Item 3 never ends, in C; item 4 crashes; item 6 takes all memory."""
    results = []
    for place, item in enumerate(chunk):
        began(place)
        if item == 3:
            sum(itertools.repeat(0))
        if item == 4:
            ctypes.string_at(0)
        results.append(_size_that_fits() if item == 6 else item)
    return results


def _size_that_fits() -> int:
    size = 1 << 20
    try:
        while True:
            mmap.mmap(-1, 2 * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
            size *= 2
    except OSError:
        return size


def mapped(work: Callable, chunks: Sequence[Sequence[int]], workers: int = 2) -> list[list[object]]:
    found = map_chunks(work, chunks, workers=workers, bounds=BOUNDS, refuse=lambda item, reason: (item, reason))
    return list(found)


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order_whatever_the_number_of_workers(workers: int) -> None:
    chunks = [list(range(start, min(start + 4, 50))) for start in range(0, 50, 4)]
    assert mapped(double, chunks, workers) == [[2 * item for item in chunk] for chunk in chunks]


def test_a_chunk_without_items_has_no_results_and_starts_no_worker() -> None:
    assert mapped(die, [[], []]) == [[], []]


def test_neither_side_waits_for_the_other_though_items_and_results_are_large() -> None:
    chunks = [[b"a" * (4 << 20)] for _ in range(12)]
    results = map_chunks(mirrored, chunks, workers=2, bounds=BOUNDS, refuse=lambda item, reason: item)
    for sent, got in zip(chunks, results, strict=True):
        time.sleep(0.02)  # answers wait meanwhile, and the next chunks are sent
        assert got == sent


def test_a_worker_without_memory_is_told_with_a_remedy() -> None:
    with pytest.raises(UserError, match="no memory left: lower "):
        mapped(exhausted, [[1], [2]])


def test_what_waits_behind_a_crash_is_done_by_another_worker() -> None:
    chunks = [[4, number] for number in range(10, 16)]
    assert mapped(hostile, chunks, workers=1) == [[(4, "decoder-crashed"), number] for number in range(10, 16)]


def test_input_is_taken_no_faster_than_results_are() -> None:
    taken = []

    def chunks():
        for item in range(100):
            taken.append(item)
            yield [item]

    results = map_chunks(double, chunks(), workers=2, bounds=BOUNDS, refuse=pytest.fail)
    next(results)
    assert len(taken) <= 6
    results.close()


def test_what_the_work_raises_arrives() -> None:
    with pytest.raises(UserError, match="item 5: leave it out"):
        mapped(fail_at_five, [[1], [5], [6]])


def test_a_worker_that_the_system_killed_is_told_as_such() -> None:
    with pytest.raises(UserError, match="a worker process was killed"):
        mapped(die, [[1], [2]])


def test_F12_items_that_never_end_or_crash_are_refused_and_the_others_of_their_chunks_are_not() -> None:
    assert mapped(hostile, [[1, 2, 3, 5], [4], [7, 4, 3, 8]]) == [
        [1, 2, (3, "too-slow"), 5],
        [(4, "decoder-crashed")],
        [7, (4, "decoder-crashed"), (3, "too-slow"), 8],
    ]


def test_F12_a_worker_gets_no_more_memory_than_its_bound() -> None:
    ((size,),) = mapped(hostile, [[6]])
    assert isinstance(size, int)
    assert BOUNDS.nbytes // 4 <= size <= BOUNDS.nbytes


ORPHANAGE = """
import sys
sys.path[:0] = {paths!r}
from components.data.worker_process import Bounds
from components.data.workers import map_chunks
from test_workers import double
if __name__ == "__main__":
    def chunks():
        while True:
            yield [1]
    found = map_chunks(double, chunks(), workers=2, bounds=Bounds(9, 1 << 30), refuse=print)
    for index, _ in enumerate(found):
        if index == 5:
            print("working", flush=True)
"""


def test_f10_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "orphanage.py"
    script.write_text(ORPHANAGE.format(paths=[str(Path.cwd()), str(Path(__file__).parent)]))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "working\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 2
        parent.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    for child in alive:
        child.kill()
    assert not alive


def die_while_sending(chunk: Sequence[int], began: Began) -> list[bytes]:
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return [bytes(4 << 20)]  # more than a pipe holds


def die_afterwards(chunk: Sequence[int], began: Began) -> list[int]:
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return list(chunk)


def test_a_worker_that_is_killed_while_it_sends_is_told_as_such() -> None:
    def chunks():
        yield [1]
        time.sleep(1)

    with pytest.raises(UserError, match="a worker process was killed"):
        mapped(die_while_sending, chunks(), workers=1)


def test_a_worker_that_is_killed_while_it_has_nothing_to_do_is_told_as_such() -> None:
    def chunks():
        yield from ([1], [], [])
        time.sleep(0.5)
        yield [2]

    with pytest.raises(UserError, match="a worker process was killed"):
        mapped(die_afterwards, chunks(), workers=1)
