"""Shards in a bucket, read by ranges from a server on loopback, also behind a bad line."""

import pickle
import re
import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import pytest
from s3_server import own_account, s3_server

from components.data import bucket_shards
from components.data.bucket_shards import BucketShardReader
from components.data.shard_access import open_shards
from components.data.shard_writer import ShardWriter
from components.data.shards import ShardReader
from components.errors import UserError
from components.settings import Settings

IMAGES = {sha256(data).hexdigest(): data for data in (bytes([n]) * (300 + 70 * n) for n in range(30))}
IDS = list(IMAGES)


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials of the test only, and no waiting."""
    own_account(monkeypatch, tmp_path)
    monkeypatch.setattr(bucket_shards, "BACKOFF_SECONDS", 0.001)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Any]:
    """A folder of shards, and where the images are in it."""
    folder = tmp_path / "shards"
    folder.mkdir()
    with ShardWriter(folder, 1 << 16) as writer:
        for one, data in IMAGES.items():
            writer.write(one, "jpg", data)
    assert writer.shards > 1
    return folder, writer.locations()


class Line(BaseHTTPRequestHandler):
    """Serves ranges of files as S3 would; spoils the first answers for each range."""

    folder: Path
    fault: str
    spoilt: int
    seen: dict[str, int]
    lock = threading.Lock()

    def do_GET(self) -> None:
        wanted = str(self.headers["Range"])
        with self.lock:
            self.seen[self.path + wanted] = self.seen.get(self.path + wanted, 0) + 1
            bad = self.seen[self.path + wanted] <= self.spoilt
        if bad and self.fault == "503":
            self.send_error(503, "Slow Down")
            return
        if bad and self.fault == "reset":
            self.connection.close()
            return
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
        assert match is not None
        body = (self.folder / self.path.rpartition("/")[2]).read_bytes()[int(match[1]) : int(match[2]) + 1]
        if bad and self.fault == "flipped":
            body = bytes([body[0] ^ 1]) + body[1:]
        self.send_response(206)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if bad and self.fault == "short" else body)

    def log_message(self, *_: object) -> None:
        pass


Start = Callable[..., tuple[str, dict[str, int]]]


@pytest.fixture
def line(written: tuple[Path, Any]) -> Iterator[Start]:
    servers = []

    def start(fault: str = "", spoilt: int = 0) -> tuple[str, dict[str, int]]:
        seen: dict[str, int] = {}
        handler = type("Handler", (Line,), {"folder": written[0], "fault": fault, "spoilt": spoilt, "seen": seen})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}", seen

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def reader(url: str, locations: Any, cache: Path, nbytes: int = 1 << 20) -> BucketShardReader:
    return BucketShardReader("s3://data/some/shards", locations, cache=cache, cache_bytes=nbytes, endpoint=url)


def test_a_real_server_of_the_protocol_gives_the_images_of_the_local_shards(written, tmp_path, monkeypatch) -> None:
    folder, locations = written
    with s3_server() as url:
        client = boto3.client("s3", endpoint_url=url)
        client.create_bucket(Bucket="data")
        for path in folder.iterdir():
            client.upload_file(str(path), "data", f"some/shards/{path.name}")
        client.close()
        settings = Settings(
            root=tmp_path, home=tmp_path, s3_endpoint=url, shards_uri="s3://data/some/shards", _env_file=None
        )
        assert isinstance(open_shards(folder, locations, settings), ShardReader)
        with open_shards(tmp_path / "nowhere", locations, settings) as remote:
            assert {one: remote.read(one) for one in reversed(IDS)} == IMAGES
            assert len(remote) == len(IDS)
            assert IDS[0] in remote
            assert "0" * 64 not in remote
            assert remote.nbytes(IDS[3]) == len(IMAGES[IDS[3]])


def test_each_image_is_one_request_of_its_own_bytes_and_then_comes_from_the_cache(line, written, tmp_path) -> None:
    url, seen = line()
    with reader(url, written[1], tmp_path / "cache") as remote:
        assert [remote.read(one) for one in IDS * 2] == [IMAGES[one] for one in IDS * 2]
    assert list(seen.values()) == [1] * len(IDS)
    with reader("http://127.0.0.1:9", written[1], tmp_path / "cache") as away:
        assert [away.read(one) for one in IDS] == list(IMAGES.values())


def test_the_cache_keeps_its_bound(line, written, tmp_path) -> None:
    url, seen = line()
    with reader(url, written[1], tmp_path / "cache", nbytes=9_000) as remote:
        for one in IDS * 2:
            assert remote.read(one) == IMAGES[one]
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()) <= 9_000
    assert sum(seen.values()) > len(IDS)


def test_what_is_announced_is_fetched_once_and_ahead(line, written, tmp_path) -> None:
    url, seen = line()
    with reader(url, written[1], tmp_path / "cache") as remote:
        remote.prefetch(IDS[:10])
        remote.prefetch(IDS[5:15])
        assert [remote.read(one) for one in IDS[:15]] == [IMAGES[one] for one in IDS[:15]]
    assert list(seen.values()) == [1] * 15


def test_a_reader_works_after_pickling(line, written, tmp_path) -> None:
    url, _ = line()
    with reader(url, written[1], tmp_path / "cache") as remote, pickle.loads(pickle.dumps(remote)) as again:
        assert again.read(IDS[4]) == IMAGES[IDS[4]]


@pytest.mark.parametrize("fault", ["503", "reset", "short", "flipped"])
def test_F9_a_line_that_fails_twice_is_tried_again(line, written, tmp_path, fault) -> None:
    url, _ = line(fault, 2)
    with reader(url, written[1], tmp_path / "cache") as remote:
        assert [remote.read(one) for one in IDS[:4]] == [IMAGES[one] for one in IDS[:4]]


@pytest.mark.parametrize(
    ("fault", "message"),
    [("503", "S3 answers"), ("short", "cannot be read"), ("flipped", "the bytes are others than the manifest says")],
)
def test_F9_a_line_that_keeps_failing_is_given_up_with_the_names(line, written, tmp_path, fault, message) -> None:
    url, _ = line(fault, 1000)
    with reader(url, written[1], tmp_path / "cache") as remote:
        remote.prefetch(IDS[:2])
        with pytest.raises(UserError, match=rf"s3://data/some/shards/shard-.*tar, image {IDS[0]}: .*{message}"):
            remote.read(IDS[0])
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_place_that_is_no_bucket_is_refused(written, tmp_path) -> None:
    for uri in ("/data/shards", "s3://", "s3://key:secret@data/x"):
        with pytest.raises(UserError, match="SELFSIGHT_SHARDS_URI") as error:
            BucketShardReader(uri, written[1], cache=tmp_path, cache_bytes=0)
        assert "secret" not in str(error.value)


@pytest.fixture
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


def test_F9_what_asking_again_does_not_mend_is_told_at_once_with_its_remedy(
    server, written, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(bucket_shards, "BACKOFF_SECONDS", 100)
    client = boto3.client("s3", endpoint_url=server)
    with reader(server, written[1], tmp_path / "a") as remote:
        with pytest.raises(UserError, match="s3://data: no such bucket"):
            remote.read(IDS[0])
        client.create_bucket(Bucket="data")
        with pytest.raises(UserError, match=r"shard-.*\.tar: not there \(NoSuchKey\): upload it again"):
            remote.read(IDS[0])
        client.close()
        checked_requests(server, "0")
        try:
            with pytest.raises(UserError, match=r"the credentials are refused.*AWS_ACCESS_KEY_ID"):
                remote.read(IDS[0])
        finally:
            checked_requests(server, "inf")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with (
        reader(server, written[1], tmp_path / "b") as remote,
        pytest.raises(UserError, match="no usable AWS credentials"),
    ):
        remote.read(IDS[0])


def checked_requests(server: str, count: str) -> None:
    """After that many requests the server checks credentials."""
    plain = {"Content-Type": "text/plain"}
    urlopen(Request(f"{server}/moto-api/reset-auth", count.encode(), plain, method="POST")).close()


def test_an_endpoint_without_a_scheme_is_told_as_such(written, tmp_path) -> None:
    with (
        reader("localhost:9000", written[1], tmp_path / "cache") as remote,
        pytest.raises(UserError, match=r"'localhost:9000': write SELFSIGHT_S3_ENDPOINT with http"),
    ):
        remote.read(IDS[0])


def test_training_processes_of_a_machine_share_its_cache_out(written, tmp_path) -> None:
    options = {"root": tmp_path, "home": tmp_path, "shards_uri": "s3://data/x", "image_cache_bytes": 1000}
    settings = Settings(**options, processes=4, _env_file=None)
    with open_shards(tmp_path / "nowhere", written[1], settings) as remote:
        assert isinstance(remote, BucketShardReader)
        assert remote._cache == (tmp_path / ".cache" / "selfsight" / "images", 250)
