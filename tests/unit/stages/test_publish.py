"""Outs appear whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from components.errors import UserError
from components.stages.publish import publish


def test_a_folder_appears_only_when_the_block_succeeds(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with publish(target) as partial:
        partial.mkdir()
        (partial / "a").write_text("1")
        assert not target.exists()
    assert (target / "a").read_text() == "1"
    assert os.listdir(tmp_path) == ["out"]


def fail_half_way(target: Path) -> None:
    with publish(target) as partial:
        partial.mkdir()
        (partial / "new").write_text("new")
        raise RuntimeError


def test_a_failure_leaves_the_old_state_and_no_leftover(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(RuntimeError):
        fail_half_way(target)
    assert os.listdir(tmp_path) == ["out"]
    assert os.listdir(target) == ["old"]


def test_a_folder_replaces_what_stood_there(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").write_text("old")
    with publish(target) as partial:
        partial.mkdir()
        (partial / "new").write_text("new")
    assert os.listdir(target) == ["new"]


def test_what_a_killed_process_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / ".out.partial-1").mkdir()
    (tmp_path / ".out.partial-1" / "half").write_text("half")
    with publish(tmp_path / "out") as partial:
        partial.write_text("whole")
    assert os.listdir(tmp_path) == ["out"]


def test_no_space_is_a_user_error_with_a_remedy(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"no space left while writing .*out: free some space"),
        publish(tmp_path / "out"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
