"""A list of images that must never be used is kept to the letter, and never lost in silence."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from components.data.forgotten import FORGOTTEN, load_usable, read_forgotten, usable, write_forgotten
from components.data.manifest import IMAGES, SOURCES, Manifest
from components.data.shards import LOCATIONS
from components.data.tables import write_table
from components.errors import UserError

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def manifest() -> Manifest:
    """A is a training image, B of both parts, C an evaluation image."""
    images = [{"id": one, "status": "ok"} for one in (A, B, C)]
    places = [(A, "train"), (B, "train"), (B, "eval"), (C, "eval")]
    sources = [{"id": one, "uri": one, "name": one, "split": split} for one, split in places]
    locations = [{"id": one, "shard": "shard-000000.tar", "offset": 512, "nbytes": 1} for one in (A, B, C)]
    return Manifest(
        images=pa.Table.from_pylist(images, schema=IMAGES),
        sources=pa.Table.from_pylist(sources, schema=SOURCES),
        locations=pa.Table.from_pylist(locations, schema=LOCATIONS),
        truth=pa.table({"id": [A, B, C], "kind": ["image"] * 3}),
    )


def test_the_bytes_of_the_list_depend_on_the_ids_only(tmp_path: Path) -> None:
    write_forgotten([B, A], tmp_path / "one")
    write_forgotten(frozenset({A, B, C}), tmp_path / "two")
    write_forgotten(read_forgotten(tmp_path / "two") - {C}, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert read_forgotten(tmp_path / "one") == {A, B}


def test_the_list_of_this_project_has_the_very_bytes_that_are_written(tmp_path: Path) -> None:
    """Whoever forgets images in this working tree has a list that is not empty."""
    here = Path(__file__).parents[3] / "data" / "forgotten.lock"
    write_forgotten(read_forgotten(here), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == here.read_bytes()


def test_a_list_is_on_the_disk_before_it_takes_the_place_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, Path.replace
    monkeypatch.setattr("os.fsync", lambda descriptor: (done.append("sync"), sync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda path, target: (done.append("replace"), replace(path, target))[1])
    write_forgotten([A], tmp_path / "list")
    assert done == ["sync", "replace", "sync"]


def test_a_list_that_is_missing_or_damaged_is_no_empty_list(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file: restore it with git"):
        read_forgotten(tmp_path / "absent")
    (tmp_path / "merged").write_text(f"{A}\n<<<<<<< HEAD\n{B}\n")
    with pytest.raises(UserError, match="line 2 is no SHA-256"):
        read_forgotten(tmp_path / "merged")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no list of images"):
        read_forgotten(tmp_path / "binary")


def test_a_forgotten_image_is_in_no_table_and_of_no_part() -> None:
    left = usable(manifest(), {B, "d" * 64})
    assert left.ids("train") == [A]
    assert left.ids("eval") == [C]
    for table in (left.images, left.sources, left.locations, left.truth):
        assert table is not None
        assert B not in table["id"].to_pylist()
    assert usable(manifest(), ()).ids() == [A, B, C]


def test_later_stages_leave_out_what_deduplication_left_out(tmp_path: Path) -> None:
    for folder in ("manifest", "dedup"):
        (tmp_path / folder).mkdir()
    manifest().save(tmp_path / "manifest")
    with pytest.raises(UserError, match="no such file"):
        load_usable(tmp_path / "manifest", tmp_path / "dedup")
    write_table(pa.table({"id": [C]}), tmp_path / "dedup" / FORGOTTEN)
    assert load_usable(tmp_path / "manifest", tmp_path / "dedup").ids() == [A, B]
