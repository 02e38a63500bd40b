"""Archives over a line to S3 that fails on purpose: fetched whole or not at all, and nothing half is left behind."""

import io
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import boto3
import pytest
from failing_line import Line, failing_line
from s3_server import own_account, s3_server

from components import s3 as s3_module
from components.data.snapshot import SnapshotParams, take_snapshot
from components.data.sources import bucket
from components.errors import UserError
from components.settings import Settings

pytestmark = pytest.mark.timeout(60)
URI = "s3://data/shards/*.tar"
Start = Callable[..., tuple[Line, Settings]]


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials of the test only, and a second instead of half a minute."""
    own_account(monkeypatch, tmp_path)
    monkeypatch.setattr(s3_module, "READ_SECONDS", 1)
    monkeypatch.setattr(bucket, "READ_SECONDS", 1)
    monkeypatch.setattr(bucket, "ATTEMPTS", 3)
    monkeypatch.setattr(bucket, "BACKOFF_SECONDS", 0.01)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture
def start(server: str, tmp_path: Path) -> Iterator[Start]:
    """Fills a bucket with two tars, and begins to fail."""
    client = boto3.client("s3", endpoint_url=server)
    client.create_bucket(Bucket="data")
    for number in range(2):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            info = tarfile.TarInfo("x.jpg")
            info.size = 300_000
            archive.addfile(info, io.BytesIO(bytes([number]) * info.size))
        client.put_object(Bucket="data", Key=f"shards/{number}.tar", Body=buffer.getvalue())
    client.close()
    with ExitStack() as lines:

        def started(fault: str, spoilt: int) -> tuple[Line, Settings]:
            line = lines.enter_context(failing_line(Line(server, fault, spoilt, only=".tar")))
            return line, Settings(root=tmp_path, home=tmp_path, threads=1, s3_endpoint=line.url, _env_file=None)

        yield started


def kept(settings: Settings) -> list[str]:
    return [path.name for path in (settings.cache / "containers").glob("*") if path.is_file()]


@pytest.mark.parametrize("fault", ["503", "reset", "short", "hang", "flip"])
def test_F9_archives_that_fail_once_are_fetched_whole(start: Start, fault: str) -> None:
    line, settings = start(fault, 1)
    objects = take_snapshot(SnapshotParams(source=URI), settings).objects
    steady = start("503", 0)[1].model_copy(update={"cache_dir": settings.root / "another"})
    assert objects == take_snapshot(SnapshotParams(source=URI), steady).objects
    assert {count for (_, path), count in line.seen.items() if ".tar" in path} == {2}
    assert len(kept(settings)) == 2
    assert all(name.endswith(".tar") for name in kept(settings))


@pytest.mark.parametrize("fault", ["503", "reset", "short", "flip"])
def test_F9_nothing_is_left_of_an_archive_that_always_fails(start: Start, fault: str) -> None:
    line, settings = start(fault, 1000)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"s3://data/shards/0\.tar") as caught:
        take_snapshot(SnapshotParams(source=URI), settings)
    assert "\n" not in str(caught.value)
    assert "not-to-be-shown" not in str(caught.value)
    assert max(line.seen.values()) == 3
    assert time.monotonic() - began < 30
    assert kept(settings) == []
