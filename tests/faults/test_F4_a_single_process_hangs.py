"""F4: the one training process is stopped for good: nobody waits for it in a collective, and yet it is found."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.faults.training_program import (
    SECONDS,
    STEPS,
    assert_same,
    prepare,
    run_until_saved,
    still_training,
)

STEP_SECONDS = 4

pytestmark = pytest.mark.slow


def worker(folder: Path) -> psutil.Process:
    """The training process."""
    found = [one for pid in still_training(folder) if "RANK" in (one := psutil.Process(pid)).environ()]
    assert len(found) == 1
    return found[0]


def test_F4_a_hung_single_process_is_killed_and_started_again_and_ends_bitwise_as_one_left_alone(
    left_alone: Path, tmp_path: Path
) -> None:
    folder = prepare(tmp_path / "hung")
    process = run_until_saved(folder, STEPS // 3, SELFSIGHT_STEP_SECONDS=str(STEP_SECONDS))
    victim = worker(folder)
    began = time.monotonic()
    os.kill(victim.pid, signal.SIGSTOP)
    victim.wait(SECONDS)
    took = time.monotonic() - began
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    assert took >= STEP_SECONDS - 1, "a step that takes long is none that hangs"
    assert f"has ended no step for {STEP_SECONDS} s" in output
    assert "a training process died or hung" in output
    assert "goes on from step" in output
    assert not still_training(folder)
    assert_same(folder, left_alone)
