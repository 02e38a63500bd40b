"""F7: no room under the checkpoints: what is there stays, and training goes on when there is some."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from components.training.checkpoint import CheckpointStore
from tests.faults.disks import disk, mount
from tests.faults.training_program import SECONDS, assert_same, finish, prepare, start

SMALL, LARGE = "2m", "64m"


pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that a few checkpoints fill."""
    with disk(tmp_path / "disk", SMALL) as folder:
        yield folder


def test_F7_a_full_disk_under_checkpoints_keeps_the_old_ones_and_the_run_goes_on_with_room(
    small_disk: Path, left_alone: Path, tmp_path: Path
) -> None:
    folder = prepare(tmp_path / "full")
    process = start(folder, SELFSIGHT_CHECKPOINT_DIR=str(small_disk))
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, "the program under test has no runner that would map it to 2"
    assert "UserError: no space left for a checkpoint: free some space and run again" in output
    (run,) = small_disk.iterdir()
    newest = CheckpointStore(run).newest()
    assert newest is not None, "what was whole still is"
    assert not list(run.glob(".partial-*")), "what was not does not fill the disk"
    assert mount(small_disk, "remount", f"size={LARGE}")
    assert f"goes on from step {int(newest.name[-8:])} " in finish(folder, SELFSIGHT_CHECKPOINT_DIR=str(small_disk))
    assert_same(folder, left_alone)
