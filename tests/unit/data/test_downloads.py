"""The folder of downloads: its bound, its locks, and what is left by processes that were killed."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from components.data.sources.downloads import PARTIAL, Downloads, Wanted
from components.errors import UserError

BOUND = 100
Write = Callable[[BinaryIO], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "containers"


@pytest.fixture
def kept(folder: Path) -> Downloads:
    return Downloads(folder, BOUND)


def wanted(name: str, nbytes: int = 40) -> Wanted:
    return Wanted(name, nbytes, f"s3://data/{name}")


def bytes_of(one: Wanted) -> bytes:
    return (one.name.encode() * one.nbytes)[: one.nbytes]


def write(one: Wanted) -> Write:
    return lambda file: file.write(bytes_of(one)) and None


def get(kept: Downloads, one: Wanted) -> bytes:
    with kept.at_hand(one, write(one)) as path:
        return path.read_bytes()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


def age(folder: Path, *names: str) -> None:
    """The first was used longest ago."""
    for seconds, name in enumerate(names):
        os.utime(folder / name, (1000 + seconds, 1000 + seconds))


def refuse(_: BinaryIO) -> None:
    raise AssertionError("fetched again")


def test_the_least_recently_used_makes_room_and_stays_readable_to_who_has_it_open(
    kept: Downloads, folder: Path
) -> None:
    for name in "ab":
        assert get(kept, wanted(name)) == bytes_of(wanted(name))
    age(folder, "a", "b")
    with kept.at_hand(wanted("a"), refuse) as path:
        opened = path.open("rb")
    with (folder / "b").open("rb") as dropped:
        get(kept, wanted("c"))
        assert names(folder) == {"a", "c"}
        assert dropped.read() == bytes_of(wanted("b"))
    opened.close()
    assert get(kept, wanted("b")) == bytes_of(wanted("b"))


def test_a_file_of_the_bound_is_let_in_and_a_larger_one_refused(kept: Downloads, folder: Path) -> None:
    get(kept, wanted("a"))
    assert len(get(kept, wanted("all", BOUND))) == BOUND
    assert names(folder) == {"all"}
    with pytest.raises(UserError, match=r"s3://data/x: 101 bytes.*SELFSIGHT_ARCHIVE_CACHE_BYTES"):
        get(kept, wanted("x", BOUND + 1))


def test_a_fetch_that_fails_leaves_nothing(kept: Downloads, folder: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half")
        raise UserError("gone", remedy="none")

    with pytest.raises(UserError, match="gone"), kept.at_hand(wanted("a"), fail):
        pass
    assert names(folder) == set()


def test_of_several_that_want_a_file_one_fetches_it(kept: Downloads) -> None:
    fetched = []

    def fetch(file: BinaryIO) -> None:
        fetched.append(threading.get_ident())
        write(wanted("a"))(file)

    def take(_: int) -> bytes:
        with kept.at_hand(wanted("a"), fetch) as path:
            return path.read_bytes()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(take, range(8))) == {bytes_of(wanted("a"))}
    assert len(fetched) == 1


def test_what_is_on_its_way_takes_up_room_and_is_waited_for(kept: Downloads, folder: Path) -> None:
    arriving, go_on = threading.Event(), threading.Event()

    def slowly(file: BinaryIO) -> None:
        arriving.set()
        assert go_on.wait(10)
        write(wanted("a", 60))(file)

    def take() -> None:
        with kept.at_hand(wanted("a", 60), slowly):
            pass

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(take)
        assert arriving.wait(10)
        second = pool.submit(get, kept, wanted("b", 60))
        with pytest.raises(TimeoutError):
            second.result(timeout=0.3)
        assert names(folder) == {f"a{PARTIAL}"}
        go_on.set()
        first.result(timeout=10)
        assert second.result(timeout=10) == bytes_of(wanted("b", 60))
    assert names(folder) == {"b"}


def test_a_file_that_shares_its_lock_with_the_wanted_one_makes_room(
    kept: Downloads, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.data.sources.downloads._lock_name", lambda _: "one")
    for name in "abcd":
        get(kept, wanted(name, 60))
    assert names(folder) == {"d"}


HALF = """
import sys, time
from pathlib import Path
from components.data.sources.downloads import Downloads, Wanted
def half(file):
    file.write(b"half")
    file.flush()
    print("half", flush=True)
    time.sleep(60)
with Downloads(Path(sys.argv[1]), 100).at_hand(Wanted(sys.argv[2], 60, "x"), half):
    pass
"""


@pytest.mark.parametrize("name", ["a", "b"])
def test_F9_what_a_killed_process_left_goes_when_the_next_file_comes(kept: Downloads, folder: Path, name: str) -> None:
    with subprocess.Popen([sys.executable, "-c", HALF, str(folder), "a"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    assert names(folder) == {f"a{PARTIAL}"}
    assert get(kept, wanted(name, 60)) == bytes_of(wanted(name, 60))
    assert names(folder) == {name}


def test_clearing_leaves_what_is_being_opened(kept: Downloads, folder: Path) -> None:
    get(kept, wanted("a"))
    with kept.at_hand(wanted("b"), write(wanted("b"))):
        kept.clear()
        assert names(folder) == {"b"}
    kept.clear()
    assert names(folder) == set()
    Downloads(folder / "absent", BOUND).clear()
