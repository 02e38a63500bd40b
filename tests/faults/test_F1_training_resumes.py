"""A training that is killed, stopped or finds its checkpoint damaged ends bit for bit as one that was left alone."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from components.training.checkpoint import POINTER
from tests.faults.training_program import (
    SECONDS,
    STEPS,
    assert_same,
    finish,
    prepare,
    run_until_saved,
    start,
    steps_saved,
    still_training,
    wait_until,
)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SIGKILL of the stage and its process group in the middle of the run."""
    folder = prepare(tmp_path_factory.mktemp("killed"))
    process = run_until_saved(folder, STEPS // 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not still_training(folder), "training goes on without its stage")
    assert not (folder / "pretrain").exists()
    return folder


def test_F1_a_killed_training_ends_bitwise_as_one_left_alone(killed: Path, left_alone: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(killed, tmp_path / "again")
    assert "goes on from step" in finish(folder)
    assert_same(folder, left_alone)


@pytest.mark.slow
def test_F1_a_killed_retrain_goes_on_from_its_own_checkpoint_and_not_from_zero(
    left_alone: Path, tmp_path: Path
) -> None:
    """The completed run before it has left checkpoints of later steps in the same folder."""
    folder = shutil.copytree(left_alone, tmp_path / "retrained")
    params = json.loads((folder / "params.json").read_text())
    (folder / "params.json").write_text(json.dumps({**params, "steps": STEPS + 10}))
    process = start(folder)
    between = range(3, STEPS - 3)
    wait_until(
        lambda: process.poll() is not None or any(step in between for step in steps_saved(folder)),
        "a checkpoint of the retrain",
    )
    assert process.poll() is None, process.communicate()[0]
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until(lambda: not still_training(folder), "training goes on without its stage")
    assert f"goes on from step {steps_saved(folder)[-1]} of {STEPS + 10}" in finish(folder)


@pytest.mark.slow
def test_F7_a_full_disk_under_the_artifact_is_one_line_and_the_next_run_finishes(
    left_alone: Path, tmp_path: Path
) -> None:
    folder = prepare(tmp_path / "full")
    weights = folder / "pretrain" / "model.safetensors"
    weights.parent.mkdir()
    weights.symlink_to("/dev/full")
    process = start(folder)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, output
    assert "UserError: no space left while writing the result of pretrain" in output
    assert output.count("Traceback") == 1, "that of the program under test: training itself shows none"
    weights.unlink()
    assert f"goes on from step {STEPS} of {STEPS}" in finish(folder)
    assert_same(folder, left_alone)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "missing", "empty pointer", "stale pointer"])
def test_F2_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    killed: Path, left_alone: Path, tmp_path: Path, damage: str
) -> None:
    folder = shutil.copytree(killed, tmp_path / "again")
    before, newest = steps_saved(folder)[-2:]
    (checkpoint,) = folder.glob(f".checkpoints/*/step-{newest:08d}")
    shard = checkpoint / "shard-00000-of-00001.safetensors"
    if damage == "flipped bit":
        content = bytearray(shard.read_bytes())
        content[-100] ^= 4
        shard.write_bytes(content)
    elif damage == "truncated":
        os.truncate(shard, shard.stat().st_size - 1)
    elif damage == "missing":
        shard.unlink()
    else:
        (checkpoint.parent / POINTER).write_text("" if "empty" in damage else json.dumps({"step": before}))
    output = finish(folder)
    named = POINTER if "pointer" in damage else f"{checkpoint.name} is damaged ({shard.name}"
    taken = newest if "pointer" in damage else before
    assert named in output
    assert f"goes on from step {taken} " in output
    assert_same(folder, left_alone)


def test_F3_sigterm_leaves_a_checkpoint_and_exit_code_75(left_alone: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path / "stopped")
    process = run_until_saved(folder, STEPS // 3)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 75, output
    assert "Traceback" not in output
    assert not still_training(folder)
    assert not (folder / "pretrain").exists()
    assert f"goes on from step {steps_saved(folder)[-1]} " in finish(folder)
    assert_same(folder, left_alone)
