"""F4: of two processes one is killed, or stopped for good: all are started again and end as if nothing had been."""

import os
import signal
import time
from collections.abc import Callable
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


def train(folder: Path, fault: Callable[[psutil.Process], None] | None) -> tuple[str, float]:
    """Trains on two processes; the fault comes over the second in the middle.

    Returns:
        What was printed, and the seconds from the fault to the next checkpoint.
    """
    process = start(folder, SELFSIGHT_PROCESSES="2", SELFSIGHT_COLLECTIVE_SECONDS=str(COLLECTIVE_SECONDS))
    took = 0.0
    deadline = time.monotonic() + SECONDS
    while process.poll() is None and (steps_saved(folder) or [0])[-1] < STEPS // 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    if fault is not None:
        victims = ranks(folder)
        assert sorted(victims) == [0, 1]
        fault(victims[1])
        began, at = time.monotonic(), steps_saved(folder)[-1]
        while process.poll() is None and steps_saved(folder)[-1] <= at + 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        took = time.monotonic() - began
        assert not victims[1].is_running() or victims[1].status() == psutil.STATUS_ZOMBIE
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    assert not still_training(folder)
    return output, took


@pytest.fixture(scope="module")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("two-left-alone"))
    train(folder, None)
    return folder


def test_F4_a_killed_rank_is_noticed_and_all_start_again_from_the_checkpoint(left_alone: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "killed")
    output, _ = train(folder, lambda rank: os.kill(rank.pid, signal.SIGKILL))
    assert "a training process died or hung" in output
    assert "goes on from step" in output
    assert_same(folder, left_alone)


def test_F4_a_hung_rank_is_found_within_the_timeout_and_all_start_again(left_alone: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "hung")
    output, took = train(folder, lambda rank: os.kill(rank.pid, signal.SIGSTOP))
    assert "a training process died or hung" in output
    assert "goes on from step" in output
    assert took < COLLECTIVE_SECONDS + 30, "the timeout, and a start"
    assert_same(folder, left_alone)


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
