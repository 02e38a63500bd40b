"""F10: when `dvc` or the orchestrator is gone, no orphan of a stage keeps writing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

STAGE = """
import subprocess, sys, time
from pathlib import Path
from components.stages.lifeline import follow_parents

extra = int(sys.argv[2]) if len(sys.argv) > 2 else None
follow_parents(extra)
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
Path(sys.argv[1]).write_text(f"{__import__('os').getpid()} {worker.pid}")
time.sleep(60)
"""
PARENT = "import subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]])"


def wait_for(file: Path) -> list[psutil.Process]:
    deadline = time.monotonic() + 20
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline, "the stage did not start"
        time.sleep(0.05)
    return [psutil.Process(int(pid)) for pid in file.read_text().split()]


def all_end(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    for process in alive:
        process.kill()
    return not alive


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    script = tmp_path / "stage.py"
    script.write_text(STAGE)
    return script


def test_F10_a_stage_and_its_workers_end_when_dvc_is_killed(stage: Path, tmp_path: Path) -> None:
    dvc = tmp_path / "dvc"
    dvc.write_text(PARENT)
    parent = subprocess.Popen([sys.executable, str(dvc), str(stage), str(tmp_path / "pids")])
    processes = wait_for(tmp_path / "pids")
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert all_end(processes)


def test_F10_a_stage_ends_when_the_orchestrator_is_killed_but_its_parent_lives(stage: Path, tmp_path: Path) -> None:
    orchestrator = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    child = subprocess.Popen([sys.executable, str(stage), str(tmp_path / "pids"), str(orchestrator.pid)])
    processes = wait_for(tmp_path / "pids")
    os.kill(orchestrator.pid, signal.SIGKILL)
    orchestrator.wait()
    assert child.wait(10) == 137
    assert all_end(processes[1:])


def test_a_stage_started_by_hand_outlives_its_shell(stage: Path, tmp_path: Path) -> None:
    shell = subprocess.Popen([sys.executable, "-c", PARENT, str(stage), str(tmp_path / "pids")])
    processes = wait_for(tmp_path / "pids")
    os.kill(shell.pid, signal.SIGKILL)
    shell.wait()
    time.sleep(1.5)
    assert processes[0].is_running()
    for process in processes:
        process.kill()
