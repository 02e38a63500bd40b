"""What ingest keeps between runs: the outs are the same with it, without it, and whatever became of it."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from components.data import ingest, ingest_cache
from components.data.ingest import IngestParams, build_manifest
from components.data.ingest_cache import IngestCache
from components.data.lock import SourceLock
from components.data.manifest import Manifest
from components.data.shard_writer import ShardWriter
from components.data.snapshot import SnapshotParams, take_snapshot
from components.errors import UserError
from components.settings import Settings

Picture = Callable[..., bytes]
SMALL_SHARDS = {"shard_bytes": 1 << 16, "max_bytes": 50_000}
"""Shards of 8 KB on average."""


class Place:
    """A folder of images and a cache; each run has outs of its own."""

    def __init__(self, root: Path, settings: Settings, picture: Picture) -> None:
        self.images = root / "many"
        self.cache = settings.cache / "ingest"
        self.forgotten: frozenset[str] = frozenset()
        self.settings = settings
        self._root, self._picture = root, picture
        self.images.mkdir()
        self.add(range(60))
        (self.images / "bad.jpg").write_bytes(b"no image")

    def add(self, numbers: range, prefix: str = "") -> None:
        for number in numbers:
            (self.images / f"{prefix}{number:03d}.jpg").write_bytes(self._picture(number, size=(64, 48)))

    def lock(self) -> SourceLock:
        return take_snapshot(SnapshotParams(source=str(self.images)), self.settings)

    def run(self, out: str, lock: SourceLock | None = None, **params: object) -> dict[str, bytes]:
        folder = self._root / out
        settings = self.settings
        parameters = IngestParams(**{**SMALL_SHARDS, **params})
        outs = (folder / "manifest", folder / "shards")
        build_manifest(lock or self.lock(), parameters, *outs, settings, self.forgotten)
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def without_cache(self, out: str, lock: SourceLock | None = None, **params: object) -> dict[str, bytes]:
        kept = self.cache.rename(self._root / f"aside-{out}") if self.cache.exists() else None
        try:
            return self.run(out, lock, **params)
        finally:
            if kept is not None:
                shutil.rmtree(self.cache)
                kept.rename(self.cache)

    def shards(self) -> dict[str, tuple[int, int]]:
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (self.cache / "shards").iterdir()}


@pytest.fixture
def place(tmp_path: Path, bare_settings: Settings, picture: Picture) -> Place:
    return Place(tmp_path, bare_settings, picture)


def test_an_ingest_after_ten_images_were_added_reads_these_alone_and_rewrites_few_shards(place: Place) -> None:
    place.run("first")
    before = place.shards()
    place.add(range(100, 110), prefix="new-")
    lock = place.lock()
    expected = place.without_cache("expected", lock)
    for path in place.images.iterdir():
        if not path.name.startswith("new-"):
            path.unlink()  # whoever looks at it again fails
    assert place.run("second", lock) == expected
    after = place.shards()
    assert len(before) > 8
    assert len(after.keys() - before.keys()) <= 4
    assert all(after[name] == before[name] for name in before), "not one of them was written again"


def test_the_outs_share_their_bytes_with_the_kept_shards(place: Place, tmp_path: Path) -> None:
    place.run("first")
    inodes = {path.stat().st_ino for path in (tmp_path / "first" / "shards").iterdir()}
    assert inodes == {inode for inode, _ in place.shards().values()}


def test_removed_and_renamed_images_are_what_a_fresh_ingest_makes_of_them(place: Place) -> None:
    place.run("first")
    (place.images / "007.jpg").unlink()
    (place.images / "010.jpg").rename(place.images / "zzz.jpg")
    shutil.copy(place.images / "020.jpg", place.images / "000-copy.jpg")
    assert place.run("second") == place.without_cache("expected")


def test_other_limits_decode_again_from_the_kept_bytes(place: Place) -> None:
    place.run("first")
    lock = place.lock()
    expected = place.without_cache("expected", lock, min_side=48)
    for path in place.images.glob("0*.jpg"):
        path.unlink()
    assert place.run("second", lock, min_side=48) == expected


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "unreadable"])
def test_damaged_shards_in_the_cache_never_reach_the_outs(place: Place, damage: str) -> None:
    place.run("first")
    place.add(range(200, 201), prefix="030-")
    lock = place.lock()
    expected = place.without_cache("expected", lock)
    for path in (place.cache / "shards").iterdir():
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        stat = path.stat()
        path.unlink()  # the outs of the first run are the same files
        if damage != "gone":
            path.write_bytes(data[: len(data) // 3] if damage == "cut" else data)
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    if damage == "unreadable":
        (place.cache / "index.sqlite").write_bytes(b"no database" * 1000)
    place.settings = place.settings.model_copy(update={"verify_reads": True})
    assert place.run("second", lock) == expected


def test_changed_bytes_under_a_kept_name_are_not_linked(place: Place) -> None:
    """Without asking for verification: a shard that was written to has another time of change."""
    place.run("first")
    expected = place.without_cache("expected")
    for path in (place.cache / "shards").iterdir():
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(bytes(len(data)))
    assert place.run("second") == expected


def test_what_other_code_found_out_is_not_believed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.run("first")
    monkeypatch.setattr(ingest, "policy_of", lambda code, values: "of another version")
    read = []
    remember = ingest.IngestCache.remember
    monkeypatch.setattr(ingest.IngestCache, "remember", lambda *args: (read.append(args), remember(*args)))
    place.run("second")
    assert len(read) == 61


def test_a_recipe_is_made_again_when_the_code_that_makes_it_has_changed(
    tmp_path: Path, bare_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = take_snapshot(SnapshotParams(source="scenes?images=12&eval=2&size=32"), bare_settings)
    read = []
    remember = ingest.IngestCache.remember
    monkeypatch.setattr(ingest.IngestCache, "remember", lambda *args: (read.append(args), remember(*args)))

    def run(out: str) -> int:
        read.clear()
        build_manifest(lock, IngestParams(), tmp_path / out / "m", tmp_path / out / "s", bare_settings)
        return len(read)

    assert run("a") == len(lock.objects)
    assert run("b") == 0
    monkeypatch.setattr(ingest, "policy_of", lambda code, values: f"new {sorted(values)}")
    assert run("c") == len(lock.objects)


def test_shards_that_some_runs_had_no_use_for_are_dropped(place: Place) -> None:
    place.run("first")
    first = set(place.shards())
    for path in place.images.glob("0[0-4]*.jpg"):
        path.unlink()
    lock = place.lock()
    for number in range(2):
        place.run(f"less-{number}", lock)
        assert first <= set(place.shards())
    place.run("last", lock)
    assert len(set(place.shards()) & first) < len(first) / 2


def test_a_source_that_changed_is_no_matter_once_its_locked_bytes_are_kept_but_named_before(place: Place) -> None:
    lock = place.lock()
    changed = replace(lock, objects=tuple(one for one in lock.objects if one.name != "005.jpg"))
    place.run("first", changed)
    (place.images / "006.jpg").write_bytes(b"another")
    place.run("second", changed)
    (place.images / "005.jpg").write_bytes(b"another")
    with pytest.raises(UserError, match=r"005\.jpg: changed since the snapshot"):
        place.run("third", lock)


def test_manifest_of_a_reused_ingest_has_every_column(place: Place, tmp_path: Path) -> None:
    place.run("first")
    place.run("second")
    first, second = (Manifest.load(tmp_path / name / "manifest") for name in ("first", "second"))
    assert first.images.equals(second.images)
    assert first.images["phash"].null_count == 1


def test_a_cache_that_cannot_be_made_is_named(place: Place, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    place.settings = place.settings.model_copy(update={"cache_dir": tmp_path / "file"})
    with pytest.raises(UserError, match=r"file/ingest/shards: .*SELFSIGHT_CACHE_DIR"):
        place.run("first")


def test_two_ingests_at_a_time_share_a_cache_and_do_not_disturb_each_other(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = place.without_cache("expected")
    with IngestCache(place.cache, "of another ingest, which still runs"):
        assert place.run("meanwhile") == expected
        assert place.run("again") == expected
    assert place.run("afterwards") == expected
    shutil.rmtree(place.cache)
    others, end_file, stamp = ExitStack(), ShardWriter._end_file, ingest_cache._stamp

    def while_a_shard_is_half_written(writer: ShardWriter) -> None:
        others.close()
        others.enter_context(IngestCache(place.cache, "of another ingest, which began and ends meanwhile"))
        end_file(writer)

    def before_a_row_names_the_shard(path: Path) -> tuple[int, int] | None:
        others.close()
        return stamp(path)

    monkeypatch.setattr(ShardWriter, "_end_file", while_a_shard_is_half_written)
    monkeypatch.setattr(ingest_cache, "_stamp", before_a_row_names_the_shard)
    with others:
        others.enter_context(IngestCache(place.cache, "of another ingest, which began first"))
        assert place.run("third") == expected
    assert {name for name in expected if name.startswith("shards/")} == {f"shards/{one}" for one in place.shards()}


def test_partial_shards_of_a_killed_ingest_are_deleted_by_the_next(place: Place) -> None:
    place.run("first")
    (place.cache / "shards" / ".partial-1.tar").write_bytes(b"half")
    place.run("second")
    assert not list((place.cache / "shards").glob(".partial-*"))


def test_kept_shards_that_hold_a_forgotten_image_go_with_the_next_ingest_that_has_no_use_for_them(
    place: Place,
) -> None:
    place.run("first")
    place.add(range(300, 301), prefix="030-")  # its shard is written anew, and the rows name the new one
    place.run("second")
    gone = {path: sha256(path.read_bytes()).hexdigest() for path in place.images.glob("03*.jpg")}
    for path in gone:
        path.unlink()
    expected = place.without_cache("expected")

    def holders() -> list[str]:
        shards = (place.cache / "shards").iterdir()
        return [path.name for path in shards if any(one.encode() in path.read_bytes() for one in gone.values())]

    place.forgotten = frozenset(["0" * 64])
    assert place.run("third") == expected
    assert len(holders()) > 2
    place.forgotten = frozenset(gone.values())
    assert place.run("fourth") == expected
    assert holders() == []


@pytest.mark.parametrize("page", [1, 2, 3, 4, 5, 6])
def test_a_cache_whose_later_page_is_damaged_costs_time_only_and_is_made_anew(place: Place, page: int) -> None:
    scenes = take_snapshot(SnapshotParams(source="scenes?images=60&eval=20"), place.settings)  # fills every table
    expected = place.run("first", scenes)
    path = place.cache / "index.sqlite"
    data = bytearray(path.read_bytes())
    assert len(data) >= 7 * 4096
    data[page * 4096 : (page + 1) * 4096] = b"\xff" * 4096
    path.write_bytes(data)
    assert place.run("second", scenes) == expected
    place.run("third", scenes)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_keys_of_which_nothing_is_known_any_more_are_dropped(place: Place) -> None:
    scenes = take_snapshot(SnapshotParams(source="scenes?images=20&eval=5"), place.settings)
    place.run("first", scenes)
    with closing(sqlite3.connect(place.cache / "index.sqlite")) as database:
        kept = database.execute("SELECT key FROM objects ORDER BY key").fetchall()
        database.executemany(
            "INSERT INTO objects VALUES (?, ?)", [("sha256:" + "ab" * 32, b"a"), ("s3://b/k etag:1", b"b")]
        )
        database.commit()
    place.run("second", scenes)
    with closing(sqlite3.connect(place.cache / "index.sqlite")) as database:
        assert database.execute("SELECT key FROM objects ORDER BY key").fetchall() == kept != []
