import threading
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from components.data.bounded_files import BoundedFiles

IMAGES = {sha256(data).hexdigest(): data for data in (bytes([n]) * 1000 for n in range(20))}
IDS = list(IMAGES)


def stored(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_what_was_put_is_there_until_others_need_the_room(tmp_path: Path) -> None:
    files = BoundedFiles(tmp_path, 5_000)
    for one in IDS[:5]:
        files.put(one, IMAGES[one])
    assert files.get(IDS[0]) == IMAGES[IDS[0]]  # used last
    files.put(IDS[5], IMAGES[IDS[5]])
    assert files.get(IDS[1]) is None
    assert stored(tmp_path) == {IDS[0], *IDS[2:6]}


def test_a_file_larger_than_the_bound_is_not_kept(tmp_path: Path) -> None:
    files = BoundedFiles(tmp_path, 999)
    files.put(IDS[0], IMAGES[IDS[0]])
    assert files.get(IDS[0]) is None
    assert not stored(tmp_path)


def test_what_another_process_left_is_used_and_counts(tmp_path: Path) -> None:
    before = BoundedFiles(tmp_path, 10_000)
    for one in IDS[:10]:
        before.put(one, IMAGES[one])
    after = BoundedFiles(tmp_path, 4_000)
    assert len(stored(tmp_path)) == 4
    assert sum(after.get(one) == IMAGES[one] for one in IDS[:10]) == 4


@pytest.mark.parametrize("damage", ["flipped", "gone"])
def test_a_damaged_file_is_dropped_and_may_be_put_again(tmp_path: Path, damage: str) -> None:
    files = BoundedFiles(tmp_path, 2_000)
    files.put(IDS[0], IMAGES[IDS[0]])
    (path,) = tmp_path.rglob(IDS[0])
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"x" * 1000)
    assert files.get(IDS[0]) is None
    files.put(IDS[0], IMAGES[IDS[0]])
    assert files.get(IDS[0]) == IMAGES[IDS[0]]


def test_threads_never_exceed_the_bound_and_never_read_other_bytes(tmp_path: Path) -> None:
    files = BoundedFiles(tmp_path, 6_000)
    wrong: list[str] = []

    def work(seed: int) -> None:
        for place in np.random.default_rng(seed).integers(0, 20, 150):
            one = IDS[place]
            data = files.get(one)
            if data is None:
                files.put(one, IMAGES[one])
            elif data != IMAGES[one]:
                wrong.append(one)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(stored(tmp_path)) <= 6
