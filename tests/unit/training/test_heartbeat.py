"""The watchdog over real processes of its own; time passes as the test says."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.training.heartbeat import START_SECONDS, Heartbeat, Watchdog

LIMIT = 10.0


@pytest.fixture
def child() -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def shown_by(child: "subprocess.Popen[bytes]", folder: Path) -> Path:
    path = folder / f"heartbeat-{child.pid}"
    path.touch()
    return path


def beat(path: Path) -> None:
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))


def test_F4_a_process_whose_steps_do_not_end_is_killed_and_not_before(
    child: "subprocess.Popen[bytes]", tmp_path: Path
) -> None:
    path, dog = shown_by(child, tmp_path), Watchdog(tmp_path, LIMIT)
    dog.look(1.0)
    for _ in range(3):
        beat(path)
        dog.look(1.0)
        dog.look(LIMIT - 1)
    assert child.poll() is None
    dog.look(1.0)
    assert child.wait(5) == -signal.SIGKILL


def test_F4_a_stopped_process_is_killed_as_well(child: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    path, dog = shown_by(child, tmp_path), Watchdog(tmp_path, LIMIT)
    dog.look(1.0)
    beat(path)
    dog.look(1.0)
    child.send_signal(signal.SIGSTOP)
    dog.look(LIMIT)
    assert child.wait(5) == -signal.SIGKILL


def test_the_first_step_may_take_longer(child: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    shown_by(child, tmp_path)
    dog = Watchdog(tmp_path, LIMIT)
    dog.look(START_SECONDS - 1)
    assert child.poll() is None
    dog.look(2.0)
    assert child.wait(5) == -signal.SIGKILL


def test_only_own_processes_are_killed(tmp_path: Path) -> None:
    """The process of a file may be gone, and its number be that of another."""
    middle = "import subprocess; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    with subprocess.Popen([sys.executable, "-c", middle], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        stranger = int(process.stdout.readline())
        path = tmp_path / f"heartbeat-{stranger}"
        path.touch()
        Watchdog(tmp_path, LIMIT).look(2 * START_SECONDS)
        assert not path.exists()
        os.kill(stranger, signal.SIGTERM)
        assert process.wait(5) == 0, "it was there to be ended"


def test_a_heartbeat_changes_with_every_step_and_goes_with_the_last(tmp_path: Path) -> None:
    heart = Heartbeat(tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == f"heartbeat-{os.getpid()}"
    before = path.stat().st_mtime_ns
    time.sleep(0.02)
    heart.beat()
    assert path.stat().st_mtime_ns > before
    heart.end()
    assert not list(tmp_path.iterdir())


def test_it_looks_by_itself(child: "subprocess.Popen[bytes]", tmp_path: Path) -> None:
    path = shown_by(child, tmp_path)
    Watchdog(tmp_path, 0.4).start()
    for _ in range(5):
        time.sleep(0.15)
        beat(path)
    assert child.poll() is None
    assert child.wait(10) == -signal.SIGKILL
