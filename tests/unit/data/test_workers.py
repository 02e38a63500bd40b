import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from components.data.workers import chunked, map_chunks
from components.errors import UserError


def double(chunk: Sequence[int]) -> list[int]:
    time.sleep(0.02 * (7 - chunk[0] % 7) / 7)  # later chunks are often done first
    return [2 * item for item in chunk]


def fail_at_five(chunk: Sequence[int]) -> list[int]:
    if 5 in chunk:
        raise UserError("item 5", remedy="leave it out")
    return list(chunk)


def die(chunk: Sequence[int]) -> list[int]:
    os.kill(os.getpid(), signal.SIGKILL)
    return list(chunk)


def test_chunks_are_bounded_in_number_and_size() -> None:
    chunks = list(chunked([5, 5, 5, 50, 1, 1, 1, 1], lambda size: size, max_items=3, max_size=12))
    assert chunks == [[5, 5], [5], [50], [1, 1, 1], [1]]


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_in_order_whatever_the_number_of_workers(workers: int) -> None:
    assert list(map_chunks(double, chunked(range(50), lambda _: 1, max_items=4), workers=workers)) == [
        2 * item for item in range(50)
    ]


def test_input_is_taken_no_faster_than_results_are() -> None:
    taken = []

    def chunks():
        for item in range(100):
            taken.append(item)
            yield [item]

    results = map_chunks(double, chunks(), workers=2)
    next(results)
    assert len(taken) <= 6
    results.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_the_work_raises_arrives(workers: int) -> None:
    with pytest.raises(UserError, match="item 5: leave it out"):
        list(map_chunks(fail_at_five, [[1], [5], [6]], workers=workers))


def test_a_killed_worker_is_told_as_such() -> None:
    with pytest.raises(UserError, match="a worker process was killed"):
        list(map_chunks(die, [[1], [2]], workers=2))


ORPHANAGE = """
import sys
sys.path[:0] = {paths!r}
from components.data.workers import map_chunks
from test_workers import double
if __name__ == "__main__":
    def chunks():
        while True:
            yield [1]
    for index, _ in enumerate(map_chunks(double, chunks(), workers=2)):
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
