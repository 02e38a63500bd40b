from dataclasses import replace
from pathlib import Path

import pytest

from components.data.lock import SourceLock, SourceObject, read_lock, same_lock, write_lock
from components.data.named_sources import joined
from components.errors import UserError

LOCK = SourceLock(
    train_uri="s3://bucket/train",
    eval_uri="eval.tar",
    include=("*.jpg",),
    exclude=("masks/*",),
    objects=(
        SourceObject("eval", "b.jpg", 7, f"sha256:{7:064x}"),
        SourceObject("train", 'a\n"ä.jpg', None, "scenes:01"),
        SourceObject("train", "b.jpg", 0, "etag:02-3"),
    ),
)


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_lock(LOCK, tmp_path / "data" / "source.lock")
    assert read_lock(tmp_path / "data" / "source.lock") == LOCK


def test_the_file_does_not_depend_on_the_order_of_objects(tmp_path: Path) -> None:
    shuffled = replace(LOCK, objects=LOCK.objects[::-1])
    write_lock(LOCK, tmp_path / "a")
    write_lock(shuffled, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert same_lock(LOCK, shuffled)


@pytest.mark.parametrize(
    "other",
    [
        replace(LOCK, train_uri="elsewhere"),
        replace(LOCK, exclude=()),
        replace(LOCK, objects=LOCK.objects[1:]),
        replace(LOCK, objects=(replace(LOCK.objects[0], digest=f"sha256:{8:064x}"), *LOCK.objects[1:])),
    ],
)
def test_locks_of_other_sources_patterns_or_contents_differ(other: SourceLock) -> None:
    assert not same_lock(LOCK, other)


def test_objects_of_a_role_are_found(tmp_path: Path) -> None:
    assert [one.name for one in LOCK.of_role("eval")] == ["b.jpg"]
    assert LOCK.uri("eval") == "eval.tar"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "", "empty"),
        (lambda text: text.replace('"version": 1', '"version": 99'), "line 1 is damaged"),
        (lambda text: text[:-20], "line 4 is damaged"),
        (lambda text: text.replace('"role": "eval"', '"role": "test"'), "line 2 is damaged"),
        (lambda text: text.replace('"size": 7', '"size": "many"'), "line 2 is damaged"),
        (lambda text: text.replace("sha256:00", "sha256:zz"), "line 2 is damaged"),
        (lambda text: text.replace("sha256:00", "sha256:"), "line 2 is damaged"),
        (lambda text: text.replace("sha256:00", "sha256:AA"), "line 2 is damaged"),
        (lambda text: text.replace('"eval": "eval.tar"', '"eval": null'), "line 2 is damaged"),
        (lambda text: text.replace('"eval": "eval.tar"', '"eval": "sets?a=eval.tar"'), "line 2 is damaged"),
        (lambda text: "[1]\n", "line 1 is damaged"),
    ],
)
def test_a_damaged_lock_is_refused_naming_the_line(tmp_path: Path, damage, message: str) -> None:
    path = tmp_path / "source.lock"
    write_lock(LOCK, path)
    path.write_text(damage(path.read_text()))
    with pytest.raises(UserError, match=message) as error:
        read_lock(path)
    assert "selfsight snapshot" in error.value.remedy


@pytest.mark.parametrize("name", ["b/1.jpg", "1.jpg", "a", "A/1.jpg"])
def test_an_object_of_none_of_several_sources_is_refused_naming_the_line(tmp_path: Path, name: str) -> None:
    """As merging two locks leaves it."""
    path, several = tmp_path / "source.lock", joined({"a": "x", "c": "y"})
    write_lock(SourceLock(several, objects=(SourceObject("train", "c/1.jpg", 1, "etag:1"),)), path)
    assert [one.name for one in read_lock(path).objects] == ["c/1.jpg"]
    path.write_text(path.read_text().replace("c/1.jpg", name))
    with pytest.raises(UserError, match="line 2 is damaged: take a new one"):
        read_lock(path)


def test_an_absent_lock_says_how_to_take_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="selfsight snapshot"):
        read_lock(tmp_path / "source.lock")
