"""F10: the orchestrator, `dvc repro` or a stage is killed: nothing is left, and the next run does what is missing."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import miniature
import psutil
import pytest

pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]

# writes half of its out, starts a worker in a session of its own that writes for ever, and waits
HANGS = """
import os, pathlib, signal, subprocess, sys, time
def stop(*_):
    pathlib.Path('checkpoint').write_text('whole')
    sys.exit(143)
if not pathlib.Path('go').exists():
    signal.signal(signal.SIGTERM, stop)
    pathlib.Path('second.txt').write_text('half')
    code = "import time\\nwhile True: open('beat', 'a').write('x'); time.sleep(0.05)"
    worker = subprocess.Popen([sys.executable, '-c', code], start_new_session=True)
    while not pathlib.Path('beat').exists():
        time.sleep(0.01)
    pathlib.Path('pids.new').write_text(f'{os.getpid()} {worker.pid}')
    pathlib.Path('pids.new').rename('pids')
    time.sleep(120)
"""


class Running:
    """A pipeline that hangs in its second stage, and every process below it."""

    def __init__(self, project: Path, environment: dict[str, str]) -> None:
        self.project = project
        self._environment = environment
        self.process = self.start()
        self.stage, self.worker = self._wait_for_stage()
        self.below = psutil.Process(self.process.pid).children(recursive=True)
        assert {self.stage, self.worker} <= {process.pid for process in self.below}

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", miniature.DRIVER], cwd=self.project, env=self._environment)

    def _wait_for_stage(self) -> tuple[int, int]:
        file = self.project / "pids"
        deadline = time.monotonic() + 120
        while not file.exists():
            assert time.monotonic() < deadline, "the second stage did not start"
            assert self.process.poll() is None, "the pipeline ended"
            time.sleep(0.05)
        stage, worker = file.read_text().split()
        return int(stage), int(worker)

    def process_named(self, part: str) -> psutil.Process:
        return next(process for process in self.below if part in process.cmdline())

    def assert_nothing_left(self) -> None:
        _, alive = psutil.wait_procs(self.below, timeout=10)
        assert not alive
        beats = (self.project / "beat").stat().st_size
        time.sleep(0.3)
        assert (self.project / "beat").stat().st_size == beats

    def assert_next_run_does_the_rest(self) -> None:
        (self.project / "go").touch()
        assert self.start().wait() == 0
        assert [miniature.runs_of(self.project, name) for name in ("first", "second", "third")] == [1, 1, 1]
        assert (self.project / "second.txt").read_text() == "seed>first.txt>second.txt"
        assert "up to date" in miniature.run(self.project, "dvc", "status").stdout

    def clean_up(self) -> None:
        for process in self.below:
            if process.is_running():
                process.kill()
        self.process.kill()
        self.process.wait()


def hang(project: Path, **environment: str) -> Running:
    miniature.chain(project)
    script = miniature.copier("first.txt", "second.txt", HANGS)
    (project / "second.py").write_text(script)
    return Running(project, {**os.environ, "SELFSIGHT_HOME": str(project), **environment})


@pytest.fixture
def running(project: Path) -> Iterator[Running]:
    found = hang(project, **miniature.prefect_variables())
    yield found
    found.clean_up()


def test_F10_sigkill_of_the_orchestrator_leaves_neither_stage_nor_server(project: Path) -> None:
    running = hang(project)
    try:
        assert running.process_named("uvicorn")
        running.process.kill()
        running.process.wait()
        running.assert_nothing_left()
        running.assert_next_run_does_the_rest()
    finally:
        running.clean_up()


def test_F10_sigkill_of_dvc_ends_the_stage_and_the_run(running: Running) -> None:
    running.process_named("dvc").kill()
    assert running.process.wait() == 137
    running.assert_nothing_left()
    running.assert_next_run_does_the_rest()


def test_F10_sigkill_of_the_stage_ends_its_workers_and_the_run(running: Running) -> None:
    os.kill(running.stage, signal.SIGKILL)
    assert running.process.wait() == 137
    running.assert_nothing_left()
    running.assert_next_run_does_the_rest()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_F10_stopping_lets_the_stage_write_its_checkpoint_and_leaves_nothing(
    running: Running, number: signal.Signals, code: int
) -> None:
    running.process.send_signal(number)
    assert running.process.wait() == code
    running.assert_nothing_left()
    assert (running.project / "checkpoint").read_text() == "whole"
