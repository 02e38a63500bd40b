"""F4: of two processes one is killed, then one is stopped for good: all start again and end as if nothing had been."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.training_program import (
    SECONDS,
    STEPS,
    assert_same,
    prepare,
    start,
    steps_saved,
    still_training,
    wait_until,
)

COLLECTIVE_SECONDS = 20
"""Processes also wait so long for each other when they start, and that takes seconds."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def ranks(folder: Path) -> dict[int, psutil.Process]:
    """The training processes by rank."""
    found = {}
    for pid in still_training(folder):
        try:
            process = psutil.Process(pid)
            if (rank := process.environ().get("RANK")) is not None:
                found[int(rank)] = process
        except psutil.Error:
            continue
    return found


def begin(folder: Path) -> "subprocess.Popen[str]":
    return start(folder, SELFSIGHT_PROCESSES="2", SELFSIGHT_COLLECTIVE_SECONDS=str(COLLECTIVE_SECONDS))


def wait_for_step(process: "subprocess.Popen[str]", folder: Path, step: int) -> None:
    wait_until(lambda: process.poll() is not None or (steps_saved(folder) or [0])[-1] >= step, f"step {step}")


def strike(process: "subprocess.Popen[str]", folder: Path, number: signal.Signals) -> float:
    """A signal for the second process.

    Returns:
        Seconds from there to the next checkpoint but one, which is none that was being written.
    """
    victims = ranks(folder)
    assert sorted(victims) == [0, 1]
    os.kill(victims[1].pid, number)
    began, at = time.monotonic(), steps_saved(folder)[-1]
    wait_for_step(process, folder, at + 2)
    assert not victims[1].is_running() or victims[1].status() == psutil.STATUS_ZOMBIE
    return time.monotonic() - began


def end(process: "subprocess.Popen[str]", folder: Path) -> str:
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    assert not still_training(folder)
    return output


@pytest.fixture(scope="module")
def two_left_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("two-left-alone"))
    end(begin(folder), folder)
    return folder


def test_F4_a_killed_rank_and_then_a_hung_one_are_noticed_and_all_start_again_from_the_checkpoint(
    two_left_alone: Path, tmp_path: Path
) -> None:
    """Both in one run: it is as bitwise the undisturbed one as with either alone, and starts once less."""
    folder = prepare(tmp_path / "struck")
    process = begin(folder)
    wait_for_step(process, folder, STEPS // 6)
    strike(process, folder, signal.SIGKILL)
    wait_for_step(process, folder, STEPS // 2)
    took = strike(process, folder, signal.SIGSTOP)
    output = end(process, folder)
    assert took < COLLECTIVE_SECONDS + 30, "the timeout, and a start"
    for left in (1, 0):
        assert f"a training process died or hung; all are ended ({left} restarts left)" in output
    assert output.count("goes on from step") == 2
    assert_same(folder, two_left_alone)


def test_F4_without_a_restart_left_the_job_ends_with_an_error_and_no_process_stays(tmp_path: Path) -> None:
    folder = prepare(tmp_path / "dying")
    process = start(folder, SELFSIGHT_PROCESSES="2", SELFSIGHT_RESTARTS="0")
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and len(ranks(folder)) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(ranks(folder)[1].pid, signal.SIGKILL)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "a pretrain process died" in output
    assert not still_training(folder)
