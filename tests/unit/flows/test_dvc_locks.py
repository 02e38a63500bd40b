"""Claims of a dead DVC are cleared, those of a living one are not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.errors import UserError
from flows.dvc_locks import clear_stale_locks, mend_lock


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(parents=True)
    return path


def claim(pid: int) -> dict[str, object]:
    return {"write": {"/data/shards": {"pid": pid, "cmd": "dvc repro"}}, "read": {"/data/x": [{"pid": pid, "cmd": ""}]}}


def test_f10_a_claim_of_a_dead_process_is_removed(record: Path, tmp_path: Path) -> None:
    process = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    record.write_text(json.dumps(claim(int(process.stdout))))
    clear_stale_locks(tmp_path)
    assert json.loads(record.read_text()) == {"write": {}, "read": {}}


def test_f10_a_claim_whose_pid_belongs_to_another_program_by_now_is_removed(record: Path, tmp_path: Path) -> None:
    record.write_text(json.dumps(claim(1)))
    clear_stale_locks(tmp_path)
    assert json.loads(record.read_text())["write"] == {}


def test_f10_a_claim_older_than_the_process_that_has_its_pid_is_removed(record: Path, tmp_path: Path) -> None:
    record.write_text(json.dumps(claim(os.getpid())))
    os.utime(record, (0, 0))
    clear_stale_locks(tmp_path)
    assert json.loads(record.read_text())["write"] == {}


def test_a_claim_of_a_living_dvc_stays(record: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", "input()", "dvc", "repro"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as living:
        record.write_text(json.dumps(claim(living.pid)))
        clear_stale_locks(tmp_path)
        assert json.loads(record.read_text()) == claim(living.pid)
        living.kill()


def test_f10_a_record_cut_short_by_a_kill_is_emptied(record: Path, tmp_path: Path) -> None:
    record.write_text('{"write": {"/da')
    clear_stale_locks(tmp_path)
    assert json.loads(record.read_text()) == {}


def test_without_a_record_nothing_is_made(tmp_path: Path) -> None:
    clear_stale_locks(tmp_path)
    assert list(tmp_path.iterdir()) == []


LOCK = """\
schema: '2.0'
stages:
  first:
    cmd: python first.py
    deps:
    - path: first.py
      hash: md5
      md5: 0cc175b9c0f1b6a831c399e269772661
      size: 1
    outs:
    - path: first.txt
      hash: md5
      md5: 92eb5ffee6ae2fec3ad71c777531578f
      size: 1
"""


def test_f10_a_lock_cut_short_by_a_kill_is_set_aside_and_a_whole_one_is_not(tmp_path: Path) -> None:
    (tmp_path / ".dvc" / "tmp").mkdir(parents=True)
    lock, aside = tmp_path / "dvc.lock", tmp_path / ".dvc" / "tmp" / "dvc.lock.damaged"
    lock.write_text(LOCK)
    mend_lock(tmp_path)
    assert lock.read_text() == LOCK
    for cut in (
        LOCK[: LOCK.index("first:") + 3],
        LOCK[: LOCK.index("first.py\n      hash")],
        LOCK[: LOCK.index("- path: first.txt") + 1],
    ):
        lock.write_text(cut)
        mend_lock(tmp_path)
        assert not lock.exists(), cut
        assert aside.read_text() == cut


def test_a_merge_in_the_lock_is_the_users_to_resolve(tmp_path: Path) -> None:
    (tmp_path / "dvc.lock").write_text(f"<<<<<<< HEAD\n{LOCK}=======\n>>>>>>> other\n")
    with pytest.raises(UserError, match="git checkout --ours"):
        mend_lock(tmp_path)


def test_without_a_lock_nothing_is_mended(tmp_path: Path) -> None:
    mend_lock(tmp_path)
    assert list(tmp_path.iterdir()) == []
