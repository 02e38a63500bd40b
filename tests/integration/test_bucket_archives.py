"""Tars, Parquet files and videos in a bucket are the same images as in a folder, and are fetched when needed."""

import io
import json
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from boto3.s3.transfer import TransferConfig
from failing_line import Line, failing_line
from PIL import Image
from s3_server import filling_client, own_account, s3_server

from components.data.ingest import IngestParams, build_manifest
from components.data.ingest_cache import KeptShards
from components.data.inspection import Inspector, Wanted
from components.data.lock import SourceLock
from components.data.snapshot import SnapshotParams, take_snapshot
from components.data.sources import bucket, object_uri, open_source
from components.errors import UserError
from components.settings import Settings

PLACE = "s3://data/2026/set"
SHARDS = 3
IMAGES = 30
"""Images of a shard: more than one chunk of ingest in all."""
PATTERNS = [
    "shards/*.tar",
    "shards/part-{0000..0002}.tar",
    "shards/part-000[0-1].tar",
    "{shards,more}/*.tar",
    "**/part-*.tar",
    "s*/part-000?.tar",
    "shards/part-0001.tar",
    "rows/*.parquet",
    "rows/b.parquet",
]
FILMS = ["clips/*/*.mp4?fps=2", "clips/**/*.{mp4,mov}", "clips/run/a.mp4?fps=5"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(scope="module")
def s3(server: str) -> Iterator[Any]:
    with filling_client(server) as client:
        yield client


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own_account(monkeypatch, tmp_path)
    monkeypatch.setattr(bucket, "ATTEMPTS", 2)
    monkeypatch.setattr(bucket, "BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr("components.data.sources.digests.SETTLED_NS", 0)


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(small).resize((48, 32)).save(buffer, "JPEG")
    return buffer.getvalue()


def packed(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def shard(number: int) -> bytes:
    """Images of a folder each, with labels beside them in two ways."""
    members = {}
    for key in range(IMAGES):
        members[f"of-{key % 2}/{key:04d}.jpg"] = picture(number * IMAGES + key)
        if key % 3 == 0:
            members[f"of-{key % 2}/{key:04d}.cls"] = b"%d" % (key % 5)
        elif key % 3 == 1:
            members[f"of-{key % 2}/{key:04d}.json"] = json.dumps({"group": f"clip {key % 4}", "frame": key}).encode()
    return packed(members)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files of every kind."""
    root = tmp_path_factory.mktemp("set")
    for folder in ("shards", "more", "rows"):
        (root / folder).mkdir()
    for number in range(SHARDS):
        (root / "shards" / f"part-{number:04d}.tar").write_bytes(shard(number))
    (root / "more" / ".hidden.tar").write_bytes(b"no tar")
    (root / "shards" / "README.md").write_text("about")
    images = pa.array([{"bytes": picture(900 + row), "path": f"x/{row}.jpg"} for row in range(3)])
    for name in ("a", "b"):
        pq.write_table(
            pa.table({"image": images, "label": pa.array(["cat", None, "dog"])}), root / f"rows/{name}.parquet"
        )
    return root


def upload(root: Path, s3: Any) -> None:
    for path in root.rglob("*"):
        if path.is_file():
            s3.upload_file(str(path), "data", f"2026/set/{path.relative_to(root)}")


@pytest.fixture
def filled(server: str, s3: Any, local: Path) -> None:
    """A bucket that holds the folder."""
    urlopen(Request(f"{server}/moto-api/reset", method="POST")).close()
    s3.create_bucket(Bucket="data")
    upload(local, s3)
    s3.put_object(Bucket="data", Key="2026/set/shards/", Body=b"")
    s3.put_object(Bucket="data", Key="2026/set-of-others/part-0000.tar", Body=b"another prefix")


@pytest.fixture
def line(server: str, filled: None) -> Iterator[Line]:
    """What counts the requests."""
    with failing_line(Line(server, "503", 0)) as one:
        yield one


@pytest.fixture
def settings(line: Line, tmp_path: Path) -> Settings:
    return Settings(root=tmp_path, home=tmp_path / "home", threads=2, s3_endpoint=line.url, _env_file=None)


def fetches(line: Line) -> int:
    """How often an object was asked for; listings are not counted."""
    return sum(count for (method, path), count in line.seen.items() if method == "GET" and "list-type" not in path)


def cached(settings: Settings) -> list[Path]:
    return [path for path in (settings.cache / "containers").glob("*") if path.is_file()]


def snapshot(uri: str, settings: Settings) -> SourceLock:
    return take_snapshot(SnapshotParams(source=uri), settings)


def check_same(local: Path, pattern: str, settings: Settings) -> None:
    here = open_source(f"{local}/{pattern}", role="train", settings=settings)
    there = open_source(f"{PLACE}/{pattern}", role="train", settings=settings)
    objects = list(there.list())
    assert objects == list(here.list()) != []
    for one in objects[::7]:
        assert there.read(one.name, one.digest) == here.read(one.name, one.digest)
        assert there.annotation(one.name) == here.annotation(one.name)
        uris = [object_uri(f"{root}/{pattern}", one.name) for root in (local, PLACE)]
        assert uris[1] == uris[0].replace(str(local), PLACE)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_gives_what_it_gives_in_a_folder(local: Path, settings: Settings, pattern: str) -> None:
    check_same(local, pattern, settings)


@pytest.mark.parametrize("pattern", FILMS)
def test_frames_of_videos_are_those_of_the_files_in_a_folder(
    s3: Any, settings: Settings, tmp_path: Path, pattern: str
) -> None:
    root = films(tmp_path)
    upload(root, s3)
    check_same(root, pattern, settings)


def films(tmp_path: Path) -> Path:
    av = pytest.importorskip("av")
    for name in ("run/a.mp4", "walk/b.mp4"):
        path = tmp_path / "films" / "clips" / name
        path.parent.mkdir(parents=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(35):
                grey = np.full((48, 64, 3), number * 7, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            container.mux(stream.encode())
    return tmp_path / "films"


def test_ingest_makes_the_same_of_both_and_keeps_no_archive(
    line: Line, local: Path, settings: Settings, tmp_path: Path
) -> None:
    outs = {}
    for name, root in (("bucket", PLACE), ("folder", str(local))):
        own = settings.model_copy(update={"cache_dir": tmp_path / name})
        out = tmp_path / "out" / name
        build_manifest(snapshot(f"{root}/shards/*.tar", own), IngestParams(), out / "manifest", out / "shards", own)
        outs[name] = {
            path.relative_to(out): path.read_bytes()
            for pattern in ("manifest/images.parquet", "manifest/locations.parquet", "shards/*")
            for path in out.glob(pattern)
        }
        assert cached(own) == []
    assert outs["bucket"] == outs["folder"]
    assert fetches(line) == SHARDS


def test_a_second_snapshot_fetches_nothing_and_a_third_what_has_changed(
    line: Line, s3: Any, settings: Settings
) -> None:
    before = snapshot(f"{PLACE}/shards/*.tar", settings)
    assert fetches(line) == SHARDS
    for path in cached(settings):
        path.unlink()
    assert snapshot(f"{PLACE}/shards/*.tar", settings) == before
    assert fetches(line) == SHARDS
    s3.put_object(Bucket="data", Key="2026/set/shards/part-0001.tar", Body=packed({"1.jpg": picture(1)}))
    after = snapshot(f"{PLACE}/shards/*.tar", settings)
    assert fetches(line) == SHARDS + 1
    assert [one.name for one in after.objects if one not in before.objects] == ["part-0001.tar/1.jpg"]


@pytest.mark.parametrize("change", ["put_object", "delete_object"])
def test_an_archive_that_was_replaced_after_the_snapshot_is_named(
    s3: Any, settings: Settings, tmp_path: Path, change: str
) -> None:
    lock = snapshot(f"{PLACE}/shards/*.tar", settings)
    key = {"Bucket": "data", "Key": "2026/set/shards/part-0001.tar"}
    replaced = {"Body": packed({f"of-{key % 2}/{key:04d}.jpg": b"another" for key in range(IMAGES)})}
    getattr(s3, change)(**key, **(replaced if change == "put_object" else {}))
    with pytest.raises(UserError, match=r"part-0001\.tar.*take a new snapshot"):
        build_manifest(lock, IngestParams(), tmp_path / "manifest", tmp_path / "shards", settings)


def test_a_version_that_was_not_listed_is_not_fetched(s3: Any, settings: Settings) -> None:
    source = open_source(f"{PLACE}/shards/part-0001.tar", role="train", settings=settings)
    s3.put_object(Bucket="data", Key="2026/set/shards/part-0001.tar", Body=packed({"1.jpg": picture(1)}))
    with pytest.raises(UserError, match=r"part-0001\.tar: gone or changed since the snapshot: take a new snapshot"):
        list(source.list())
    assert cached(settings) == []


def test_workers_that_want_the_same_file_fetch_it_once(line: Line, settings: Settings, tmp_path: Path) -> None:
    lock = snapshot(f"{PLACE}/shards/*.tar", settings)
    for path in cached(settings):
        path.unlink()
    build_manifest(lock, IngestParams(), tmp_path / "manifest", tmp_path / "shards", settings)
    assert {count for (_, path), count in line.seen.items() if "part-" in path} == {2}


@pytest.mark.parametrize("several", [False, True], ids=["alone", "one of several"])
def test_an_archive_is_at_hand_before_an_image_of_it_is_at_work(line: Line, settings: Settings, several: bool) -> None:
    uri = f"{PLACE}/shards/*.tar"
    source = {"a": uri, "b": f"{PLACE}/rows/a.parquet"} if several else uri
    lock = take_snapshot(SnapshotParams.model_validate({"source": source}), settings)
    for path in cached(settings):
        path.unlink()
    before = fetches(line)
    sources = {"train": open_source(lock.train_uri, role="train", settings=settings)}
    inspector = Inspector(sources, 10**6, 10**6, 8, 50.0, KeptShards(settings.cache / "none"))
    at_work: list[int] = []
    found = inspector.inspect_all([Wanted(one) for one in lock.objects[:2]], lambda _: at_work.append(fetches(line)))
    assert [one.verdict.reason for one in found] == [None, None]
    assert set(at_work) == {before + 1}


@pytest.mark.parametrize("pattern", ["shards/*.tar", "rows/*.parquet", "clips/**/*.mp4"])
def test_a_file_that_makes_room_for_others_stays_readable_and_is_fetched_anew_elsewhere(
    line: Line, s3: Any, settings: Settings, tmp_path: Path, pattern: str
) -> None:
    upload(films(tmp_path), s3)
    source = open_source(f"{PLACE}/{pattern}", role="train", settings=settings)
    objects = [one for one in source.list() if one.name.startswith(next(source.list()).name.partition(".")[0])]
    source.read(objects[0].name, objects[0].digest)
    before = fetches(line)
    for path in cached(settings):
        path.unlink()
    data = [source.read(one.name, one.digest) for one in objects]
    assert all(data)
    assert fetches(line) == before
    elsewhere = pickle.loads(pickle.dumps(source))
    assert [elsewhere.read(one.name, one.digest) for one in objects] == data
    assert fetches(line) == before + 1


def test_the_bound_holds_while_more_is_read_than_it_lets_in(local: Path, settings: Settings, line: Line) -> None:
    sizes = [path.stat().st_size for path in (local / "shards").glob("*.tar")]
    tight = settings.model_copy(update={"archive_cache_bytes": max(sizes) + min(sizes) - 1})
    source = open_source(f"{PLACE}/shards/*.tar", role="train", settings=tight)
    for _ in source.list():
        assert sum(path.stat().st_size for path in cached(tight)) <= tight.archive_cache_bytes
    assert len(cached(tight)) == 1
    small = settings.model_copy(update={"archive_cache_bytes": min(sizes) - 1, "cache_dir": settings.root / "other"})
    with pytest.raises(UserError, match=r"shards/part-0000\.tar: \d+ bytes.*SELFSIGHT_ARCHIVE_CACHE_BYTES"):
        list(open_source(f"{PLACE}/shards/*.tar", role="train", settings=small).list())


def test_a_damaged_copy_is_fetched_anew(line: Line, settings: Settings) -> None:
    uri = f"{PLACE}/shards/part-0000.tar"
    lock = snapshot(uri, settings)
    (path,) = cached(settings)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError):
        open_source(uri, role="train", settings=settings).read(lock.objects[0].name, lock.objects[0].digest)
    assert open_source(uri, role="train", settings=settings).read(lock.objects[0].name, lock.objects[0].digest)


def test_an_archive_that_was_uploaded_in_parts_is_read(s3: Any, settings: Settings) -> None:
    data = packed({f"{key}.jpg": np.random.default_rng(key).bytes(2 << 20) for key in range(3)})
    config = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20)
    s3.upload_fileobj(io.BytesIO(data), "data", "parts/x.tar", Config=config)
    assert "-" in s3.head_object(Bucket="data", Key="parts/x.tar")["ETag"]
    lock = snapshot("s3://data/parts/x.tar", settings)
    assert [one.name for one in lock.objects] == ["0.jpg", "1.jpg", "2.jpg"]
    assert object_uri("s3://data/parts/x.tar", "0.jpg") == "s3://data/parts/x.tar#0.jpg"


def test_a_prefix_of_archives_names_the_pattern_to_write(settings: Settings) -> None:
    with pytest.raises(UserError, match=r"set/shards: holds tars and no image.*'s3://data/2026/set/shards/\*\.tar'"):
        snapshot(f"{PLACE}/shards", settings)
    with pytest.raises(
        UserError, match=r"holds Parquet files and tars and no image.*'s3://data/2026/\*\*/\*\.parquet'"
    ):
        snapshot("s3://data/2026", settings)
    with pytest.raises(UserError, match=r"shards/\*: nothing is below.*'s3://data/2026/set/shards/\*\.tar'"):
        snapshot(f"{PLACE}/shards/*", settings)


def test_what_is_not_there_and_what_is_of_two_kinds_is_named(settings: Settings) -> None:
    for absent in ("shards/part-0009.tar", "shards/part", "none/*.tar", "shards/part-9*.tar", "shards/part-000.tar"):
        with pytest.raises(UserError, match=r"no such file in the bucket|is empty"):
            snapshot(f"{PLACE}/{absent}", settings)
    with pytest.raises(UserError, match=r"part-0003\.tar: no such file"):
        snapshot(f"{PLACE}/shards/part-{{0000..0003}}.tar", settings)
    with pytest.raises(UserError, match="matches Parquet files and tars"):
        snapshot(f"{PLACE}/**/*.{{tar,parquet}}", settings)
    with pytest.raises(UserError, match="s3://nowhere: no such bucket"):
        snapshot("s3://nowhere/*.tar", settings)


def test_credentials_in_an_address_are_refused_and_not_repeated(settings: Settings) -> None:
    with pytest.raises(UserError, match="an S3 URI with credentials") as caught:
        snapshot("s3://key:hidden-one@data/shards/*.tar", settings)
    assert "hidden-one" not in str(caught.value)
