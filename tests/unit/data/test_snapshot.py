from pathlib import Path

import pytest

from components.data.lock import read_lock, same_lock
from components.data.snapshot import SnapshotParams, take_snapshot
from components.errors import UserError
from components.parameters import validate
from components.settings import Settings


def test_a_snapshot_lists_both_roles_sorted(folder: Path, bare_settings: Settings) -> None:
    params = SnapshotParams(source=str(folder), eval=str(folder / "cat"), exclude=("dog/3*",))
    lock = take_snapshot(params, bare_settings)
    assert [(one.role, one.name) for one in lock.objects] == [
        *(("eval", f"{n}.jpg") for n in range(3)),
        *(("train", f"cat/{n}.jpg") for n in range(3)),
        *(("train", f"dog/{n}.jpg") for n in (4, 5)),
    ]
    assert (lock.train_uri, lock.eval_uri, lock.exclude) == (str(folder), str(folder / "cat"), ("dog/3*",))


def test_a_second_snapshot_is_the_same_until_something_changes(folder: Path, bare_settings: Settings) -> None:
    params = SnapshotParams(source=str(folder))
    lock = take_snapshot(params, bare_settings)
    assert same_lock(lock, take_snapshot(params, bare_settings))
    (folder / "notes.txt").write_text("no image, so no change")
    assert same_lock(lock, take_snapshot(params, bare_settings))
    (folder / "cat" / "0.jpg").rename(folder / "cat" / "00.jpg")
    assert not same_lock(lock, take_snapshot(params, bare_settings))


def test_scenes_bring_their_own_evaluation_part(bare_settings: Settings) -> None:
    lock = take_snapshot(SnapshotParams(source="scenes?images=30&eval=10"), bare_settings)
    assert lock.train_uri == lock.eval_uri == "scenes?images=30&eval=10"
    assert (len(lock.of_role("train")), len(lock.of_role("eval"))) == (30, 10)
    without = take_snapshot(SnapshotParams(source="scenes?images=30&eval=0&leaks=0"), bare_settings)
    assert without.eval_uri is None


def test_the_committed_lock_is_what_a_snapshot_of_the_default_scenes_gives(bare_settings: Settings) -> None:
    committed = read_lock(Path(__file__).parents[3] / "data" / "source.lock")
    assert same_lock(committed, take_snapshot(SnapshotParams(), bare_settings))


def test_one_image_is_too_few_to_train_on(folder: Path, bare_settings: Settings) -> None:
    params = SnapshotParams(source=str(folder), include=("cat/1.jpg",))
    with pytest.raises(UserError, match="1 image: at least 2 are needed to train"):
        take_snapshot(params, bare_settings)


def test_the_training_source_cannot_be_its_own_evaluation(folder: Path, bare_settings: Settings) -> None:
    with pytest.raises(UserError, match="the evaluation source is the training source"):
        take_snapshot(SnapshotParams(source=str(folder), eval=str(folder)), bare_settings)


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(UserError, match=r"snapshot.*'source' is ' '"):
        validate(SnapshotParams, {"source": " "}, where="snapshot")
