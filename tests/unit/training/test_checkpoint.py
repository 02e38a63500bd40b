import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.tracking.locking import file_lock
from components.training.checkpoint import (
    LOCK,
    MANIFEST,
    POINTER,
    STATE,
    VERIFIED,
    CheckpointError,
    CheckpointStore,
    forget_old_runs,
    verify,
    write_durably,
)


def save(store: CheckpointStore, step: int) -> Path:
    partial = store.begin(step)
    digests = {
        "shard.bin": write_durably(partial / "shard.bin", bytes([step]) * 1000),
        STATE: write_durably(partial / STATE, json.dumps({"step": step}).encode()),
    }
    return store.commit(step, digests)


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    made = CheckpointStore(tmp_path / "run", keep=2)
    for step in (10, 20, 30):
        save(made, step)
    return made


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_the_newest_is_found_and_no_more_than_asked_for_are_kept(store: CheckpointStore) -> None:
    assert store.newest() == store.folder / "step-00000030"
    assert sorted(p.name for p in store.folder.glob("step-*")) == ["step-00000020", "step-00000030"]
    assert json.loads((store.folder / POINTER).read_text()) == {"step": 30}
    assert store.peek() == {"step": 30}


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda folder: flip_a_bit(folder / "shard.bin"), "shard.bin: its SHA-256"),
        (lambda folder: (folder / "shard.bin").write_bytes(b"\x1e" * 999), "shard.bin: its SHA-256"),
        (lambda folder: (folder / "shard.bin").unlink(), "shard.bin: No such file"),
        (lambda folder: (folder / STATE).write_bytes(b""), "state.json: its SHA-256"),
        (lambda folder: (folder / MANIFEST).write_bytes(b""), "manifest.json: JSONDecodeError"),
        (lambda folder: (folder / MANIFEST).unlink(), "manifest.json: FileNotFoundError"),
    ],
    ids=["flipped bit", "truncated", "missing", "emptied state", "emptied manifest", "no manifest"],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    store: CheckpointStore, damage: object, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(store.folder / "step-00000030")  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=named):
        verify(store.folder / "step-00000030")
    assert store.newest() == store.folder / "step-00000020"
    assert named in caplog.text


def test_an_unmarked_folder_is_no_checkpoint(store: CheckpointStore) -> None:
    (store.folder / "step-00000030" / VERIFIED).unlink()
    assert store.newest() == store.folder / "step-00000020"


@pytest.mark.parametrize("content", [b"", b"{}", b'{"step": 20}', b"[]", None])
def test_a_stale_or_empty_pointer_misleads_nobody(
    store: CheckpointStore, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    pointer = store.folder / POINTER
    pointer.unlink() if content is None else pointer.write_bytes(content)
    assert store.newest() == store.folder / "step-00000030"
    assert POINTER in caplog.text


def test_when_all_are_damaged_there_is_none(store: CheckpointStore) -> None:
    for folder in store.folder.glob("step-*"):
        flip_a_bit(folder / "shard.bin")
    assert store.newest() is None


def test_what_a_kill_left_behind_is_not_read_and_goes_with_the_next_write(store: CheckpointStore) -> None:
    partial = store.begin(40)
    write_durably(partial / "shard.bin", b"half")
    assert store.newest() == store.folder / "step-00000030"
    save(store, 50)
    assert not partial.exists()
    assert store.newest() == store.folder / "step-00000050"


def test_what_the_disk_changed_while_writing_is_not_committed(store: CheckpointStore) -> None:
    partial = store.begin(40)
    digest = write_durably(partial / "shard.bin", b"content")
    flip_a_bit(partial / "shard.bin")
    with pytest.raises(CheckpointError):
        store.commit(40, {"shard.bin": digest})
    assert store.newest() == store.folder / "step-00000030"
    assert json.loads((store.folder / POINTER).read_text()) == {"step": 30}


def test_the_same_step_can_be_written_again(store: CheckpointStore) -> None:
    save(store, 30)
    assert store.newest() == store.folder / "step-00000030"


def test_a_folder_that_does_not_exist_holds_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    empty = CheckpointStore(tmp_path / "nowhere")
    assert empty.newest() is None
    assert empty.peek() is None
    assert not caplog.text


def test_old_runs_are_forgotten_but_none_that_trains(tmp_path: Path) -> None:
    for age, name in enumerate(["pretrain-c", "pretrain-b", "pretrain-a", "distill-a"]):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    with file_lock(tmp_path / "pretrain-a" / LOCK):
        os.utime(tmp_path / "pretrain-a", (990, 990))
        forget_old_runs(tmp_path, "pretrain", keep=1)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["distill-a", "pretrain-a", "pretrain-c"]
    forget_old_runs(tmp_path, "pretrain", keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["distill-a", "pretrain-c"]


def test_fresh_checkpoints_of_a_run_that_starts_anew_are_not_taken_for_old(store: CheckpointStore) -> None:
    store.discard_above(0)
    assert store.newest() is None
    for step in (1, 2, 3):
        assert save(store, step) == store.newest()


def test_a_commit_never_removes_what_it_has_just_written(store: CheckpointStore) -> None:
    """Also where nobody removed the checkpoints of the run before."""
    assert save(store, 5).is_dir()
    assert store.newest() == store.folder / "step-00000005"


def test_a_run_that_goes_on_removes_the_damaged_checkpoints_above_its_start(
    store: CheckpointStore, caplog: pytest.LogCaptureFixture
) -> None:
    (store.folder / "step-00000030" / VERIFIED).unlink()
    save(store, 40)
    flip_a_bit(store.folder / "step-00000040" / "shard.bin")
    (store.folder / "step-old").mkdir()
    store.discard_above(20)
    assert sorted(p.name for p in store.folder.glob("step-*")) == ["step-00000020", "step-old"]
    caplog.clear()
    assert store.newest() == store.folder / "step-00000020"
    assert not caplog.text, "the pointer goes back too"


def test_a_kill_while_removing_leaves_no_earlier_checkpoint_of_a_completed_run(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its step 20 of 30 would pass for an interrupted run's."""
    real, removed = shutil.rmtree, []

    def killed_after_one(folder: Path, **options: bool) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(folder)
        real(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", killed_after_one)
    with pytest.raises(KeyboardInterrupt):
        store.discard_above(0)
    assert store.newest() == store.folder / "step-00000030"
    assert removed == [store.folder / "step-00000020"]


def test_the_newest_at_most_a_step_passes_over_later_ones(store: CheckpointStore) -> None:
    assert store.newest(at_most=29) == store.folder / "step-00000020"
    assert store.newest(at_most=19) is None


def test_F7_what_could_not_be_written_leaves_its_room(store: CheckpointStore) -> None:
    write_durably(store.begin(40) / "shard.bin", b"half")
    store.abandon(40)
    assert not store.partial(40).exists()
    assert store.newest() == store.folder / "step-00000030"


class Killed(BaseException):
    """The process is gone: nothing after it is done."""


def test_F1_after_a_kill_at_any_file_operation_a_whole_checkpoint_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dies before the first operation of a write, then before the second, and so on, until one is not killed."""
    operations = [(os, "fsync"), (os, "mkdir"), (os, "rename"), (os, "replace"), (os, "unlink"), (os, "rmdir")]
    real = {name: getattr(module, name) for module, name in operations}
    left = [0]

    def dying(name: str) -> Callable[..., Any]:
        def operation(*args: Any, **options: Any) -> Any:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            return real[name](*args, **options)

        return operation

    def save_and_die(store: CheckpointStore, step: int, after: int) -> bool:
        left[0] = after
        with monkeypatch.context() as patched:
            for module, name in operations:
                patched.setattr(module, name, dying(name))
            try:
                save(store, step)
            except Killed:
                return True
        return False

    for after in range(100):
        store = CheckpointStore(tmp_path / f"run-{after}", keep=1)
        save(store, 10)
        save(store, 20)
        killed = save_and_die(store, 30, after)
        again = CheckpointStore(store.folder, keep=1)
        newest = again.newest()
        assert newest is not None
        assert newest.name in ("step-00000020", "step-00000030"), after
        verify(newest)
        assert save(again, 40) == again.newest()
        assert [path.name for path in store.folder.glob("step-*")] == ["step-00000040"]
        if not killed:
            break
    assert after > 10, "operations are counted"
