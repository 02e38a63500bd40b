"""S3 that fails on purpose: what comes through is what was stored, tries are bounded, nothing half is left behind."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import miniature
import numpy as np
import pytest
from failing_line import Line, failing_line
from PIL import Image
from s3_server import own_account, s3_server

from components import s3 as s3_module
from components.data.ingest import IngestParams, build_manifest
from components.data.lock import SourceLock
from components.data.manifest import Manifest
from components.data.shards import ShardReader
from components.data.snapshot import SnapshotParams, take_snapshot
from components.data.sources import bucket
from components.errors import UserError
from components.models import fetching
from components.settings import Settings, get_settings
from components.training import bucket_copies
from components.training.bucket_copies import BucketCopies
from components.training.checkpoint import MANIFEST
from flows.output import Output
from flows.sharing import transfer

pytestmark = pytest.mark.timeout(120)
URI = "s3://photos/animals"
PART = 5 << 20
"""Least size of a part of an upload in parts, bytes."""
Start = Callable[..., Line]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials of the test only, and a second instead of half a minute."""
    own_account(monkeypatch, tmp_path, secret="testing")
    monkeypatch.setattr(s3_module, "READ_SECONDS", 1)
    monkeypatch.setattr(bucket, "READ_SECONDS", 1)
    monkeypatch.setattr(bucket, "ATTEMPTS", 3)
    monkeypatch.setattr(bucket_copies, "ATTEMPTS", 3)
    monkeypatch.setattr(bucket, "BACKOFF_SECONDS", 0.01)


@pytest.fixture
def s3(server: str) -> Iterator[Any]:
    """A client straight to the server, whose buckets are empty."""
    client = boto3.client("s3", endpoint_url=server)
    for name in ("photos", "models"):
        client.create_bucket(Bucket=name)
        for one in client.list_objects_v2(Bucket=name).get("Contents", []):
            client.delete_object(Bucket=name, Key=one["Key"])
    yield client
    client.close()


@pytest.fixture
def start(server: str) -> Iterator[Start]:
    with ExitStack() as lines:
        yield lambda fault, spoilt, **more: lines.enter_context(failing_line(Line(server, fault, spoilt, **more)))


@pytest.fixture
def photos(s3: Any, tmp_path: Path) -> dict[str, bytes]:
    """What is in the bucket, by name."""
    stored = {}
    for index in range(4):
        path = tmp_path / f"{index}.jpg"
        small = np.random.default_rng(index).integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(small).resize((48, 32)).save(path)
        stored[f"kind-{index % 2}/{index}.jpg"] = path.read_bytes()
    for name, data in stored.items():
        s3.put_object(Bucket="photos", Key=f"animals/{name}", Body=data)
    return stored


@pytest.fixture
def at(tmp_path: Path) -> Callable[[str], Settings]:
    return lambda endpoint: Settings(root=tmp_path, home=tmp_path, threads=1, s3_endpoint=endpoint, _env_file=None)


def snapshot(settings: Settings) -> SourceLock:
    return take_snapshot(SnapshotParams(source=URI), settings)


def ingested(lock: SourceLock, out: Path, settings: Settings) -> dict[str, bytes]:
    build_manifest(lock, IngestParams(), out / "manifest", out / "shards", settings)
    manifest = Manifest.load(out / "manifest")
    with ShardReader(out / "shards", manifest.locations) as reader:
        return {row["name"]: reader.read(row["id"]) for row in manifest.sources.to_pylist()}


@pytest.mark.parametrize("fault", ["503", "reset", "short", "hang", "flip"])
def test_F9_every_object_that_fails_once_is_read_as_it_was_stored(
    start: Start, photos: dict[str, bytes], at: Callable[[str], Settings], tmp_path: Path, fault: str
) -> None:
    line = start(fault, 1)
    settings = at(line.url)
    assert ingested(snapshot(settings), tmp_path / "a", settings) == photos
    assert {count for (_, path), count in line.seen.items() if ".jpg" in path} == {2}


@pytest.mark.parametrize("fault", ["503", "reset", "short", "hang", "flip"])
def test_F9_an_object_that_always_fails_is_named_after_a_bounded_number_of_tries(
    start: Start, photos: dict[str, bytes], at: Callable[[str], Settings], tmp_path: Path, fault: str
) -> None:
    line = start(fault, 1000, only="/0.jpg")
    settings = at(line.url)
    lock, began = snapshot(settings), time.monotonic()
    with pytest.raises(UserError, match=r"s3://photos/animals/kind-0/0\.jpg") as caught:
        ingested(lock, tmp_path / "a", settings)
    assert "\n" not in str(caught.value)
    assert max(line.seen.values()) <= 3
    assert time.monotonic() - began < 60
    assert not list((tmp_path / "a" / "manifest").glob("*.parquet"))


@pytest.mark.parametrize("fault", ["503", "reset", "hang"])
def test_F9_a_listing_that_fails_is_tried_again(
    start: Start, photos: dict[str, bytes], at: Callable[[str], Settings], fault: str
) -> None:
    lock = snapshot(at(start(fault, 1, only="list-type").url))
    assert [one.name for one in lock.objects] == sorted(photos)


@pytest.fixture
def backbone(s3: Any) -> bytes:
    """What both files of a folder in the bucket hold."""
    data = os.urandom(100_000)
    for name in ("config.json", "model.safetensors"):
        s3.put_object(Bucket="models", Key=f"v1/{name}", Body=data)
    return data


def reach(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFSIGHT_S3_ENDPOINT", line.url)
    get_settings.cache_clear()


@pytest.mark.parametrize("fault", ["503", "reset", "short", "hang"])
def test_F9_a_backbone_arrives_whole_over_a_line_that_fails_once(
    start: Start, backbone: bytes, project: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    reach(start(fault, 1, only="model.safetensors"), monkeypatch)
    (project / "into").mkdir()
    fetching.fetch_folder("s3://models/v1", project / "into")
    assert (project / "into" / "model.safetensors").read_bytes() == backbone
    assert sorted(path.name for path in (project / "into").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("fault", ["503", "reset", "short"])
def test_F9_nothing_is_left_of_a_file_that_always_fails(
    start: Start, backbone: bytes, project: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    reach(start(fault, 1000, only="model.safetensors"), monkeypatch)
    (project / "into").mkdir()
    with pytest.raises(UserError, match="s3://models/v1: cannot be fetched"):
        fetching.fetch_folder("s3://models/v1", project / "into")
    assert [path.name for path in (project / "into").iterdir()] in ([], ["config.json"])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "step-00000010"
    folder.mkdir()
    (folder / "shard.bin").write_bytes(os.urandom(2 * 8 * (1 << 20)))
    (folder / MANIFEST).write_text("{}")
    return folder


@pytest.mark.parametrize("fault", ["503", "reset", "lost", "hang"])
def test_F9_an_upload_in_parts_gets_through_a_line_that_fails(
    start: Start, s3: Any, checkpoint: Path, fault: str
) -> None:
    line = start(fault, 1, only="partNumber", methods=("PUT",))
    BucketCopies("s3://models/runs", "r", endpoint=line.url, keep=1).upload(checkpoint, checkpoint.name)
    stored = s3.get_object(Bucket="models", Key=f"runs/r/{checkpoint.name}/shard.bin")["Body"].read()
    assert stored == (checkpoint / "shard.bin").read_bytes()
    assert not s3.list_multipart_uploads(Bucket="models").get("Uploads")


@pytest.mark.parametrize("only", ["partNumber", "uploadId"])
def test_F9_an_upload_that_is_given_up_leaves_no_parts_and_no_checkpoint(
    start: Start, s3: Any, checkpoint: Path, only: str
) -> None:
    line = start("503", 1000, only=only, methods=("PUT",) if only == "partNumber" else ("POST",))
    copies = BucketCopies("s3://models/runs", "r", endpoint=line.url, keep=1)
    with pytest.raises(UserError, match="checkpoints cannot be copied"):
        copies.upload(checkpoint, checkpoint.name)
    assert not s3.list_multipart_uploads(Bucket="models").get("Uploads")
    assert not s3.list_objects_v2(Bucket="models").get("Contents")
    assert line.requests < 40


def ignore(_: Output) -> None:
    return


@pytest.fixture
def sharing(project: Path, server: str) -> Callable[[Path, str], Settings]:
    """A project with outs, and what shares it through an endpoint."""
    miniature.chain(project)
    (project / "third.py").write_text("import os\nopen('third.txt', 'wb').write(os.urandom(9 << 20))\n")
    miniature.run(project, "dvc", "repro")
    miniature.commit(project)
    return lambda root, endpoint: Settings(
        root=root, home=root, s3_endpoint=endpoint, s3_bucket="models", s3_prefix="shared", _env_file=None
    )


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["503", "reset", "short"])
def test_F9_what_is_pushed_and_pulled_over_a_failing_line_is_the_same(
    start: Start,
    s3: Any,
    project: Path,
    sharing: Callable[[Path, str], Settings],
    tmp_path_factory: pytest.TempPathFactory,
    fault: str,
) -> None:
    line = start(fault, 1, only="/files/", methods=("PUT", "POST"))
    transfer("push", sharing(project, line.url), ignore)
    assert not s3.list_multipart_uploads(Bucket="models").get("Uploads")
    clone = tmp_path_factory.mktemp("elsewhere") / "clone"
    miniature.run(project, "git", "clone", "--quiet", str(project), str(clone))
    transfer("pull", sharing(clone, start(fault, 1, only="/files/").url), ignore)
    assert (clone / "third.txt").read_bytes() == (project / "third.txt").read_bytes()


@pytest.mark.slow
def test_F9_what_arrives_damaged_is_not_taken(
    start: Start,
    s3: Any,
    project: Path,
    sharing: Callable[[Path, str], Settings],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    transfer("push", sharing(project, start("503", 0).url), ignore)
    clone = tmp_path_factory.mktemp("elsewhere") / "clone"
    miniature.run(project, "git", "clone", "--quiet", str(project), str(clone))
    with pytest.raises(UserError, match="pull is not complete"):
        transfer("pull", sharing(clone, start("flip", 1000, only="/files/").url), ignore)
    assert not (clone / "third.txt").exists()
    transfer("pull", sharing(clone, start("503", 0).url), ignore)
    assert (clone / "third.txt").read_bytes() == (project / "third.txt").read_bytes()
