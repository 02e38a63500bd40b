"""The S3 source against a real server of the protocol on loopback, also behind a bad line."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image
from s3_server import filling_client, own_account, s3_server

from components.data.ingest import IngestParams, build_manifest
from components.data.lock import SourceLock
from components.data.manifest import Manifest
from components.data.shards import ShardReader
from components.data.snapshot import SnapshotParams, take_snapshot
from components.data.sources import bucket
from components.data.sources.selection import Selection
from components.errors import UserError
from components.settings import Settings

URI = "s3://photos/2026/animals"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials of the test only, no other source of them, and no waiting."""
    own_account(monkeypatch, tmp_path)
    monkeypatch.setattr(bucket, "ATTEMPTS", 3)
    monkeypatch.setattr(bucket, "BACKOFF_SECONDS", 0.01)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "animals"
    for index in range(8):
        path = root / ("cat" if index < 4 else "dog") / f"{index} ü.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = np.random.default_rng(index).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((48, 32)).save(path)
    return root


@pytest.fixture(scope="module")
def s3(server: str) -> Iterator[Any]:
    with filling_client(server) as client:
        yield client


@pytest.fixture
def filled(server: str, s3: Any, folder: Path) -> str:
    """A bucket that holds the folder; the endpoint."""
    urlopen(Request(f"{server}/moto-api/reset", method="POST")).close()
    s3.create_bucket(Bucket="photos")
    for path in folder.rglob("*.jpg"):
        s3.upload_file(str(path), "photos", f"2026/animals/{path.relative_to(folder)}")
    s3.put_object(Bucket="photos", Key="2026/animals/", Body=b"")
    s3.put_object(Bucket="photos", Key="2026/animals/notes.txt", Body=b"no image")
    s3.put_object(Bucket="photos", Key="2026/animals-of-others/x.jpg", Body=b"another prefix")
    return server


@pytest.fixture
def at(tmp_path: Path) -> Callable[[str | None], Settings]:
    def settings(endpoint: str | None) -> Settings:
        return Settings(root=tmp_path, home=tmp_path, threads=1, s3_endpoint=endpoint, _env_file=None)

    return settings


def snapshot(settings: Settings, uri: str = URI) -> SourceLock:
    return take_snapshot(SnapshotParams(source=uri), settings)


def ingested(lock: SourceLock, out: Path, settings: Settings) -> dict[str, bytes]:
    build_manifest(lock, IngestParams(), out / "manifest", out / "shards", settings)
    manifest = Manifest.load(out / "manifest")
    with ShardReader(out / "shards", manifest.locations) as reader:
        return {row["name"]: reader.read(row["id"]) for row in manifest.sources.to_pylist()}


def test_a_bucket_gives_the_same_images_as_the_folder_it_was_filled_from(filled, folder, at, tmp_path) -> None:
    settings = at(filled)
    lock = snapshot(settings)
    assert all(one.digest.startswith("etag:") for one in lock.objects)
    assert ingested(lock, tmp_path / "a", settings) == {
        str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.jpg")
    }
    elsewhere = settings.model_copy(update={"cache_dir": tmp_path / "another cache"})
    ingested(snapshot(settings, str(folder)), tmp_path / "b", elsewhere)
    for pattern in ("manifest/images.parquet", "manifest/locations.parquet", "shards/*"):
        of_bucket = {path.name: path.read_bytes() for path in (tmp_path / "a").glob(pattern)}
        assert of_bucket
        assert of_bucket == {path.name: path.read_bytes() for path in (tmp_path / "b").glob(pattern)}


def test_a_bucket_and_a_folder_together_are_the_two_put_together(filled, folder, at, tmp_path) -> None:
    settings, cats = at(filled), folder / "cat"
    (cats / "sub").mkdir()
    (cats / "sub" / "9.jpg").write_bytes((cats / "0 ü.jpg").read_bytes())
    alone = {"a": str(folder), "b": URI}
    found = {}
    for name, source in {**alone, "both": alone}.items():
        lock = take_snapshot(SnapshotParams(source=source), settings)
        out = tmp_path / "out" / name
        build_manifest(lock, IngestParams(), out / "manifest", out / "shards", settings)
        found[name] = Manifest.load(out / "manifest")
    keys = ("id", "uri", "label")
    assert sorted(tuple(row[key] for key in keys) for row in found["both"].sources.to_pylist()) == sorted(
        tuple(row[key] for key in keys) for name in alone for row in found[name].sources.to_pylist()
    )
    assert sorted(found["both"].sources["name"].to_pylist()) == sorted(
        f"{name}/{one}" for name in alone for one in found[name].sources["name"].to_pylist()
    )
    assert found["both"].images == found["a"].images  # the bucket holds nothing else
    assert {row["uri"].partition(":")[0] for row in found["b"].sources.to_pylist()} == {"s3"}


def test_more_objects_than_one_page_are_listed(filled, at, monkeypatch) -> None:
    monkeypatch.setattr(bucket, "PAGE", 3)
    assert len(snapshot(at(filled)).objects) == 8


@pytest.mark.parametrize("change", ["put_object", "delete_object"])
def test_an_object_that_changed_after_the_snapshot_is_named(filled, s3, at, tmp_path, change) -> None:
    settings = at(filled)
    lock = snapshot(settings)
    key = {"Bucket": "photos", "Key": "2026/animals/dog/5 ü.jpg"}
    s3.put_object(**key, Body=b"another") if change == "put_object" else s3.delete_object(**key)
    with pytest.raises(UserError, match=r"dog/5 ü\.jpg: gone or changed since the snapshot.*selfsight snapshot"):
        ingested(lock, tmp_path / "a", settings)


def test_a_missing_bucket_and_an_empty_prefix_are_told_apart(filled, at) -> None:
    with pytest.raises(UserError, match="s3://nowhere: no such bucket"):
        snapshot(at(filled), "s3://nowhere/x")
    with pytest.raises(UserError, match="s3://photos/nothing: is empty"):
        snapshot(at(filled), "s3://photos/nothing")
    with pytest.raises(UserError, match="s3://a bucket: not the name of a bucket"):
        snapshot(at(filled), "s3://a bucket")


def unchecked_requests(server: str, count: str) -> None:
    """After that many requests the server checks credentials."""
    plain = {"Content-Type": "text/plain"}
    urlopen(Request(f"{server}/moto-api/reset-auth", count.encode(), plain, method="POST")).close()


def test_wrong_credentials_are_refused_and_not_shown(filled, at) -> None:
    unchecked_requests(filled, "0")
    try:
        with pytest.raises(UserError, match=r"the credentials are refused.*AWS_ACCESS_KEY_ID") as error:
            snapshot(at(filled))
    finally:
        unchecked_requests(filled, "inf")
    assert "not-to-be-shown" not in str(error.value)


def test_no_credentials_say_which_variables_to_set(filled, at, monkeypatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(UserError, match=r"no usable AWS credentials.*AWS_ACCESS_KEY_ID"):
        snapshot(at(filled))


def test_an_endpoint_that_nobody_listens_on_is_named_without_its_password(at) -> None:
    with pytest.raises(UserError, match=r"http://127\.0\.0\.1:9 cannot be reached.*SELFSIGHT_S3_ENDPOINT") as error:
        snapshot(at("http://user:password@127.0.0.1:9"))
    assert "password" not in str(error.value)


def test_a_server_that_heeds_no_condition_gives_no_other_version(filled, s3, at, tmp_path, monkeypatch) -> None:
    settings = at(filled)
    lock = snapshot(settings)
    s3.put_object(Bucket="photos", Key="2026/animals/dog/5 ü.jpg", Body=b"another")
    source = bucket.S3Source(URI, "train", Selection(), filled)
    client = source._bucket._connected()
    heedless = SimpleNamespace(get_object=lambda IfMatch, **rest: client.get_object(**rest))
    monkeypatch.setattr(source._bucket, "_client", heedless)
    (changed,) = (one for one in lock.objects if one.name == "dog/5 ü.jpg")
    with pytest.raises(UserError, match=r"dog/5 ü\.jpg: gone or changed since the snapshot"):
        source.read(changed.name, changed.digest)
    assert source.read(lock.objects[0].name, lock.objects[0].digest)
