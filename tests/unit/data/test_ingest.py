import errno
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image

from components.data import ingest
from components.data.decoding import MAX_PIXELS
from components.data.ingest import IngestParams, build_manifest
from components.data.ingest_cache import IngestCache
from components.data.inspection import Inspector
from components.data.lock import SourceLock, SourceObject
from components.data.manifest import Manifest
from components.data.manifest_builder import ManifestBuilder
from components.data.shard_writer import ShardWriter
from components.data.shards import ShardReader
from components.data.snapshot import SnapshotParams, take_snapshot
from components.data.sources import open_source
from components.data.sources.archive import Tar
from components.errors import UserError
from components.parameters import validate
from components.settings import Settings

Picture = Callable[..., bytes]


class Ingested:
    def __init__(self, out: Path, lock: SourceLock, settings: Settings, **params: object) -> None:
        self.out = out
        parameters = IngestParams(**params)
        self.metrics = build_manifest(lock, parameters, out / "manifest", out / "shards", settings)
        self.manifest = Manifest.load(out / "manifest")
        self.reader = ShardReader(out / "shards", self.manifest.locations)

    def files(self) -> dict[str, bytes]:
        return {str(path.relative_to(self.out)): path.read_bytes() for path in self.out.rglob("*") if path.is_file()}


@pytest.fixture
def ingested(tmp_path: Path, bare_settings: Settings) -> Callable[..., Ingested]:
    def run(source: object, evaluation: object = None, out: str = "out", **params: object) -> Ingested:
        snapshot = SnapshotParams(source=str(source), eval=None if evaluation is None else str(evaluation))
        return Ingested(tmp_path / out, take_snapshot(snapshot, bare_settings), bare_settings, **params)

    return run


def test_every_image_is_in_the_shards_under_its_sha256(ingested: Callable[..., Ingested], folder: Path) -> None:
    found = ingested(folder)
    expected = {sha256(path.read_bytes()).hexdigest(): path.read_bytes() for path in folder.rglob("[0-9].jpg")}
    assert {image_id: found.reader.read(image_id) for image_id in found.manifest.ids()} == expected
    assert found.manifest.images["id"].to_pylist() == sorted(expected)
    assert found.metrics["bytes"] == sum(map(len, expected.values()))


def test_size_format_and_hash_of_an_image_are_recorded(ingested: Callable[..., Ingested], folder: Path) -> None:
    row = ingested(folder).manifest.images.to_pylist()[0]
    assert (row["format"], row["width"], row["height"], row["status"], row["reason"]) == ("JPEG", 24, 16, "ok", None)
    assert row["phash"]


def test_folder_tar_and_any_number_of_workers_give_the_same_bytes(
    ingested: Callable[..., Ingested],
    folder: Path,
    tmp_path: Path,
    bare_settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with tarfile.open(tmp_path / "images.tar", "w") as archive:
        archive.add(folder, arcname=".")
    of_folder = ingested(folder, out="a")
    of_tar = ingested(tmp_path / "images.tar", out="b")
    monkeypatch.setattr(ingest, "CHUNK_ITEMS", 2)
    monkeypatch.setattr(ingest, "STRETCH", 3)
    lock = take_snapshot(SnapshotParams(source=str(folder)), bare_settings)
    elsewhere = bare_settings.model_copy(update={"threads": 2, "cache_dir": tmp_path / "another cache"})
    by_workers = Ingested(tmp_path / "c", lock, elsewhere)
    assert by_workers.files() == of_folder.files()
    without_uris = {name: data for name, data in of_folder.files().items() if "sources" not in name}
    assert without_uris.items() <= of_tar.files().items()


def test_no_trace_of_machine_or_time_is_left(ingested: Callable[..., Ingested], folder: Path) -> None:
    first = ingested(folder, out="a")
    for path in folder.rglob("*.jpg"):
        os.utime(path, ns=(1, 1))
    assert ingested(folder, out="b").files() == first.files()


def test_broken_files_are_quarantined_with_reasons_and_the_others_are_not(
    ingested: Callable[..., Ingested], folder: Path, picture: Picture
) -> None:
    photo = picture(9, size=(56, 56))
    (folder / "truncated.jpg").write_bytes(photo[: len(photo) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.png").write_bytes(b"<html>404</html>")
    (folder / "dot.png").write_bytes(picture(9, size=(1, 1), format="PNG"))
    (folder / "large.png").write_bytes(picture(9, size=(64, 64), format="PNG"))
    (folder / "heavy.bmp").write_bytes(picture(9, size=(8, 8), format="BMP") + bytes(90_000))
    (folder / "strip.png").write_bytes(picture(9, size=(440, 8), format="PNG"))
    (folder / "wrong-name.png").write_bytes(picture(9, size=(32, 32), format="GIF"))
    found = ingested(folder, max_pixels=60 * 60, max_bytes=60_000)
    rows = found.manifest.sources.join(found.manifest.images, "id").to_pylist()
    assert {row["name"]: row["reason"] for row in rows if row["status"] == "quarantined"} == {
        "truncated.jpg": "truncated",
        "empty.jpg": "empty",
        "page.png": "not-an-image",
        "dot.png": "too-small",
        "large.png": "too-many-pixels",
        "heavy.bmp": "too-many-bytes",
        "strip.png": "too-narrow",
    }
    assert found.metrics["quarantined"] == 7
    assert found.metrics["quarantined.too-many-pixels"] == 1
    assert found.metrics["ok"] == 7
    bad = found.manifest.ids(status="quarantined")
    assert not any(image_id in found.reader for image_id in bad)
    assert all(image_id in found.reader for image_id in found.manifest.ids())
    hashes = found.manifest.images.filter(pc.equal(found.manifest.images["status"], "quarantined"))["phash"]
    assert hashes.null_count == len(hashes)


def test_a_member_of_a_tar_beyond_2_gib_is_quarantined_without_being_read(
    ingested: Callable[..., Ingested], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        archive.add(folder, arcname=".")
        huge = tarfile.TarInfo("huge.jpg")
        huge.size, end = 3 << 30, archive.offset
    with path.open("r+b") as file:
        file.seek(end)
        file.write(huge.tobuf())
        file.truncate(end + 512 + huge.size + 1024)  # a hole
    digest_of, read = Tar._hash, Tar.read
    monkeypatch.setattr(
        Tar, "_hash", lambda one, name: "sha256:" + "0" * 64 if name == "huge.jpg" else digest_of(one, name)
    )
    monkeypatch.setattr(
        Tar, "read", lambda one, name, *a: pytest.fail("read") if name == "huge.jpg" else read(one, name, *a)
    )
    found = ingested(path)
    (row,) = found.manifest.images.filter(pc.equal(found.manifest.images["status"], "quarantined")).to_pylist()
    assert (row["id"], row["reason"]) == ("0" * 64, "too-many-bytes")
    assert found.metrics["ok"] == 6


def test_the_same_bytes_from_several_places_are_one_image(ingested: Callable[..., Ingested], folder: Path) -> None:
    (folder / "dog" / "copy.jpg").write_bytes((folder / "cat" / "0.jpg").read_bytes())
    found = ingested(folder)
    assert (found.metrics["images"], found.metrics["sources"], found.metrics["duplicates_exact"]) == (6, 7, 1)
    image_id = sha256((folder / "cat" / "0.jpg").read_bytes()).hexdigest()
    assert found.manifest.labels([image_id]) == [None]  # its sources disagree


def test_the_parent_folder_is_the_label_unless_it_is_one_for_all(
    ingested: Callable[..., Ingested], folder: Path
) -> None:
    assert ingested(folder, out="a").manifest.class_names == ["cat", "dog"]
    found = ingested(folder, folder / "cat", out="b")
    rows = found.manifest.sources.to_pylist()
    assert {row["label"] for row in rows if row["split"] == "eval"} == {None}
    assert {row["label"] for row in rows if row["split"] == "train"} == {"cat", "dog"}
    for path in (folder / "dog").iterdir():
        path.unlink()
    assert ingested(folder, out="c").metrics["classes"] == 0


def test_the_evaluation_source_is_the_eval_split_and_leaks_are_in_both(
    ingested: Callable[..., Ingested], folder: Path, tmp_path: Path, picture: Picture
) -> None:
    evaluation = tmp_path / "eval"
    evaluation.mkdir()
    (evaluation / "new.jpg").write_bytes(picture(100))
    (evaluation / "leak.jpg").write_bytes((folder / "cat" / "0.jpg").read_bytes())
    found = ingested(folder, evaluation)
    assert (found.metrics["train"], found.metrics["eval"], found.metrics["images"]) == (6, 2, 7)
    assert len(set(found.manifest.ids("train")) & set(found.manifest.ids("eval"))) == 1


def test_without_an_evaluation_source_a_part_is_held_out(ingested: Callable[..., Ingested], folder: Path) -> None:
    found = ingested(folder, holdout_fraction=0.01)
    assert (found.metrics["train"], found.metrics["eval"]) == (5, 1)
    assert ingested(folder, out="b", holdout_fraction=0.99).metrics["train"] == 1


def test_frames_of_a_clip_are_never_on_both_sides(
    ingested: Callable[..., Ingested], tmp_path: Path, picture: Picture
) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    for index in range(40):
        (folder / f"clip{index // 5}_{index:04d}.jpg").write_bytes(picture(index))
    found = ingested(folder, holdout_fraction=0.5, group_pattern=r"(?P<group>clip\d+)_(?P<frame>\d+)")
    sides: dict[str, set[str]] = {}
    for row in found.manifest.sources.to_pylist():
        assert row["name"] == f"{row['group']}_{row['frame']:04d}.jpg"
        sides.setdefault(row["group"], set()).add(row["split"])
    assert all(len(side) == 1 for side in sides.values())
    assert {"train", "eval"} == set.union(*sides.values())


def test_planted_broken_files_of_scenes_are_all_quarantined(ingested: Callable[..., Ingested]) -> None:
    found = ingested("scenes?images=120&eval=20&size=32&broken=0.1&leaks=0.05&copies=0.05")
    assert found.metrics["broken.planted"] >= 8
    assert found.metrics["broken.quarantined"] == found.metrics["broken.planted"]
    assert found.metrics["eval"] == 20
    truth = found.manifest.truth
    assert truth is not None
    assert truth.num_rows == 140
    known = {(row["split"], row["name"]): row["id"] for row in found.manifest.sources.to_pylist()}
    assert known == {(row["split"], row["name"]): row["id"] for row in truth.to_pylist()}


def test_truth_follows_images_that_are_held_out(ingested: Callable[..., Ingested]) -> None:
    found = ingested("scenes?images=60&eval=0&leaks=0&size=32", holdout_fraction=0.3)
    truth = found.manifest.truth
    assert truth is not None
    splits = {row["name"]: row["split"] for row in found.manifest.sources.to_pylist()}
    assert {row["name"]: row["split"] for row in truth.to_pylist()} == splits
    assert set(splits.values()) == {"train", "eval"}


def test_an_object_that_changed_after_the_snapshot_is_named(
    folder: Path, tmp_path: Path, bare_settings: Settings
) -> None:
    lock = take_snapshot(SnapshotParams(source=str(folder)), bare_settings)
    (folder / "dog" / "4.jpg").write_bytes(b"something else")
    with pytest.raises(UserError, match=r"dog/4\.jpg: changed since the snapshot.*selfsight snapshot"):
        Ingested(tmp_path / "a", lock, bare_settings)
    (folder / "dog" / "4.jpg").unlink()
    with pytest.raises(UserError, match=r"dog/4\.jpg: No such file"):
        Ingested(tmp_path / "b", lock, bare_settings)


def test_a_lock_reads_nothing_outside_its_source(folder: Path, tmp_path: Path, bare_settings: Settings) -> None:
    lock = take_snapshot(SnapshotParams(source=str(folder)), bare_settings)
    hostile = replace(lock, objects=(*lock.objects[:-1], replace(lock.objects[-1], name="../home/key.jpg")))
    with pytest.raises(UserError, match="names something outside"):
        Ingested(tmp_path / "a", hostile, bare_settings)


def test_a_source_whose_images_are_all_broken_says_why(ingested: Callable[..., Ingested], tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.mkdir()
    for index in range(3):
        (bad / f"{index}.jpg").write_bytes(f"no image {index}".encode())
    with pytest.raises(UserError, match="0 of 3 different files is an image that decodes \\(3 not-an-image\\)"):
        ingested(bad)


def test_f7_a_full_disk_is_no_user_error_of_another_kind(
    ingested: Callable[..., Ingested], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`publish`, around this, tells it and removes what was half written."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ShardWriter, "write", full)
    with pytest.raises(OSError, match="No space left"):
        ingested(folder)


def test_an_image_that_takes_more_memory_than_its_bound_is_quarantined(
    ingested: Callable[..., Ingested], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = np.random.default_rng(0).integers(0, 256, (2000, 3000, 4), dtype=np.uint8)
    Image.fromarray(large, "RGBA").save(folder / "large.png", compress_level=0)
    monkeypatch.setattr(ingest, "BYTES_OF_PIXEL", 0)
    monkeypatch.setattr(ingest, "WORKER_BYTES", 60 << 20)
    found = ingested(folder, max_bytes=25 << 20)
    assert found.metrics["quarantined.too-much-memory"] == 1
    assert found.metrics["ok"] == 6


def test_whatever_ingest_may_let_in_its_readers_decode() -> None:
    with pytest.raises(UserError, match="'max_pixels'"):
        validate(IngestParams, {"max_pixels": MAX_PIXELS + 1}, where="params.yaml")
    assert IngestParams(max_pixels=MAX_PIXELS).max_pixels == MAX_PIXELS


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"holdout_fraction": 1.0}, "'holdout_fraction' is 1.0"),
        ({"max_pixels": 10**9}, "'max_pixels'"),
        ({"shard_bytes": 1 << 20}, "max_bytes must be at most shard_bytes"),
        ({"group_pattern": "("}, "not a regular expression"),
        ({"group_pattern": "clip"}, r"it needs a part"),
        ({"max_pixel": 1}, "did you mean 'max_pixels'"),
    ],
)
def test_impossible_parameters_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(IngestParams, values, where="params.yaml")


def test_real_photos_all_decode_and_are_all_different(ingested: Callable[..., Ingested], real_data: Path) -> None:
    found = ingested(real_data / "photos" / "photos.tar")
    assert (found.metrics["ok"], found.metrics["quarantined"], found.metrics["classes"]) == (150, 0, 0)
    assert len(set(found.manifest.images["phash"].to_pylist())) == 150


def test_masks_of_real_scenes_are_left_out_by_pattern(real_data: Path, tmp_path: Path, bare_settings: Settings) -> None:
    params = SnapshotParams(source=str(real_data / "camvid" / "val.tar"), exclude=("masks/*",))
    found = Ingested(tmp_path / "out", take_snapshot(params, bare_settings), bare_settings)
    assert (found.metrics["ok"], found.metrics["classes"]) == (101, 0)


def test_times_in_nanoseconds_are_frames_and_what_is_no_frame_is_named_before_anything_is_read(
    ingested: Callable[..., Ingested], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = r"(?P<group>clip)_(?P<frame>\d+)"
    (folder / "cat" / "0.jpg").rename(folder / "cat" / "clip_1764143025123456789.jpg")
    rows = ingested(folder, group_pattern=pattern).manifest.sources.to_pylist()
    assert {row["frame"] for row in rows} == {None, 1764143025123456789}
    for digits in (str(1 << 63), "9" * 5000):
        lock = SourceLock(str(folder), objects=(SourceObject("train", f"cat/clip_{digits}.jpg", 1, "sha256:0"),))
        with pytest.raises(UserError, match=r"'cat/clip_9\d+\.jpg': frame 9\d+, as ingest\.group_pattern"):
            ManifestBuilder(lock, pattern)


def test_few_objects_of_unknown_size_are_read_at_a_time(bare_settings: Settings) -> None:
    """A frame of a video may have megabytes, and all of a chunk are in memory."""
    lock = SourceLock("scenes", objects=tuple(SourceObject("train", str(n), None, f"video:{n}") for n in range(100)))
    sources = {"train": open_source("scenes", role="train", settings=bare_settings)}
    with IngestCache(bare_settings.cache, "policy") as cache:
        inspector = Inspector(sources, 1, 1, 1, 1.0, cache.kept)
        stretches = list(ingest._Inspected(lock, inspector, cache, 1.0, 1)._stretches())
    assert max(len(one.wanted) for one in stretches) == 8


def test_what_makes_frames_is_part_of_what_they_are_remembered_by(
    bare_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = SourceLock("scenes")
    sources = {"train": open_source("scenes", role="train", settings=bare_settings)}
    keys = []
    for of_av in ("18.1.0", "18.1.1", None):
        monkeypatch.setattr(ingest, "_version", lambda package, of_av=of_av: of_av)
        with IngestCache(bare_settings.cache, "policy") as cache:
            inspected = ingest._Inspected(lock, Inspector(sources, 1, 1, 1, 1.0, cache.kept), cache, 1.0, 1)
            keys.append(inspected._key(SourceObject("train", "x", None, "video:0")))
    assert len(set(keys)) == 3
