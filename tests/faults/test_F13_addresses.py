"""Lists of addresses: nothing private is contacted, and nobody can send more, or longer, than is allowed."""

import os
import pickle
import socket
import time
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from https_server import HttpsServer, Request, https_server, write_certificate

from components.data.ingest import IngestParams, build_manifest
from components.data.lock import SourceLock
from components.data.manifest import Manifest
from components.data.snapshot import SnapshotParams, take_snapshot
from components.data.sources import Annotation, Source, https, object_uri, open_source
from components.data.sources import web_cache as https_cache
from components.data.sources.addresses import is_public
from components.data.sources.web_cache import WebCache
from components.errors import UserError
from components.settings import Settings
from tests.unit.data.conftest import encoded_noise

pytestmark = pytest.mark.timeout(60)
Open = Callable[..., Source]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_certificate(tmp_path_factory.mktemp("tls") / "server.pem", "127.0.0.1", "127.0.0.2", "images.test")


@pytest.fixture(autouse=True)
def trust(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(https, "BACKOFF_SECONDS", 0.01)


@pytest.fixture
def open_(tmp_path: Path) -> Open:
    """Writes a list and opens it; `trusted` hosts may be at private addresses."""

    def opened(*lines: str, trusted: str = "127.0.0.1") -> Source:
        (tmp_path / "urls.txt").write_text("\n".join(lines) + "\n")
        return open_source(str(tmp_path / "urls.txt"), role="train", settings=settings(tmp_path, trusted))

    return opened


def settings(home: Path, trusted: str = "127.0.0.1") -> Settings:
    return Settings(root=home, home=home, threads=1, url_hosts=trusted, _env_file=None)


def photo(request: Request) -> None:
    request.give(200, encoded_noise(int("".join(filter(str.isdigit, request.path)) or 0)))


@pytest.fixture
def server(certificate: Path) -> Iterator[HttpsServer]:
    with https_server(certificate, photo) as running:
        yield running


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "192.0.2.1",
        "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::",
        "2002:a00:1::1", "fec0::1", "64:ff9b:1::7f00:1", "64:ff9b:1::808:808", "4000::1", "1::1", "0:0:0:0:1::",
    ],
)  # fmt: skip
def test_F13_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "[::ffff:127.0.0.1]", "0"]
)
def test_F13_a_list_that_names_this_machine_is_refused_and_nothing_is_contacted(
    open_: Open, server: HttpsServer, host: str
) -> None:
    source = open_(f"https://{host}:{server.port}/1.jpg", trusted="")
    for read in (lambda: list(source.list()), lambda: source.read(f"{host}:{server.port}/1.jpg")):
        with pytest.raises(UserError, match=r"is not a public address.*SELFSIGHT_URL_HOSTS"):
            read()
    assert server.connections == 0


@pytest.mark.parametrize("host", ["10.255.255.1", "169.254.169.254", "[fd00:ec2::254]"])
def test_F13_private_and_link_local_addresses_are_refused_at_once(open_: Open, host: str) -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match="is not a public address"):
        list(open_(f"https://{host}/latest/meta-data.jpg").list())
    assert time.monotonic() - began < https.STEP_SECONDS / 3


def test_F13_a_redirect_to_a_private_address_is_refused_before_it_is_contacted(
    open_: Open, server: HttpsServer, certificate: Path
) -> None:
    def lead_inside(request: Request) -> None:
        request.give(302, Location=f"https://localhost:{server.port}/secret.jpg")

    with https_server(certificate, lead_inside) as outside:
        with pytest.raises(UserError, match=r"https://localhost: is at (127\.0\.0\.1|::1), which is not a public"):
            list(open_(f"https://127.0.0.1:{outside.port}/a.jpg").list())
        assert outside.connections == 1
    assert server.connections == 0


def test_F13_the_address_that_was_checked_is_the_one_connected_to(
    open_: Open, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name whose owner answers the second look-up with another address gains nothing: there is no second one."""
    with https_server(certificate, lambda request: request.give(200, b"checked")) as first:
        asked = []

        def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
            asked.append(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{len(asked)}", port))]

        real = socket.getaddrinfo
        names = {"images.test": resolve}
        monkeypatch.setattr(socket, "getaddrinfo", lambda host, *a, **b: names.get(host, real)(host, *a, **b))
        source = open_(f"https://images.test:{first.port}/a.jpg", trusted="images.test")
        assert source.read(f"images.test:{first.port}/a.jpg") == b"checked"
    assert asked == ["images.test"]


def test_F13_one_private_address_among_public_ones_is_enough_to_refuse(
    open_: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 443)) for one in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    with pytest.raises(UserError, match=r"is at 10\.0\.0\.1"):
        list(open_("https://images.test/a.jpg").list())


def test_F13_redirects_end(open_: Open, certificate: Path, caplog: pytest.LogCaptureFixture) -> None:
    def round_and_round(request: Request) -> None:
        photo(request) if request.path == "/1.jpg" else request.give(301, Location=request.path + "x")

    with https_server(certificate, round_and_round) as running:
        host = f"127.0.0.1:{running.port}"
        assert [one.name for one in open_(f"https://{host}/a", f"https://{host}/1.jpg").list()] == [f"{host}/1.jpg"]
        assert running.connections == https.REDIRECTS + 2
    assert "1 × more than 5 redirects" in caplog.text


@pytest.mark.parametrize(
    "location",
    ["http://example.org/a.jpg", "file:///etc/passwd", "https://u:secret@example.org/", "https://[", "//[::1"],
)
def test_F13_redirects_to_what_is_no_https_address_are_not_followed(
    open_: Open, certificate: Path, location: str
) -> None:
    with (
        https_server(certificate, lambda request: request.give(302, Location=location)) as running,
        pytest.raises(UserError, match="leads to what is no public https address") as caught,
    ):
        list(open_(f"https://127.0.0.1:{running.port}/a.jpg").list())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("declared", [True, False])
def test_F13_an_answer_without_end_is_cut_off(
    open_: Open, certificate: Path, monkeypatch: pytest.MonkeyPatch, declared: bool
) -> None:
    monkeypatch.setattr(https, "MAX_BYTES", 1 << 20)
    sent = []

    def flood(request: Request) -> None:
        request.send_response(200)
        if declared:
            request.send_header("Content-Length", str(1 << 40))
        request.end_headers()
        for _ in range(1000):
            request.wfile.write(bytes(1 << 20))
            sent.append(1)

    with https_server(certificate, flood) as running:
        with pytest.raises(UserError, match="is larger than 1048576 bytes"):
            list(open_(f"https://127.0.0.1:{running.port}/a.jpg").list())
        assert running.connections == 1
    assert len(sent) < 100


@pytest.mark.parametrize("where", ["body", "headers"])
def test_F13_a_byte_now_and_then_is_not_waited_for(
    open_: Open, certificate: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(https, "TOTAL_SECONDS", 0.5)
    monkeypatch.setattr(https, "ATTEMPTS", 2)

    def drip(request: Request) -> None:
        request.wfile.write(b"HTTP/1.0 200 OK\r\n" + (b"\r\n" if where == "body" else b"X: "))
        for _ in range(200):
            request.wfile.write(b"x")
            time.sleep(0.1)

    with https_server(certificate, drip) as running:
        began = time.monotonic()
        with pytest.raises(UserError, match=r"takes more than|fails|times out"):
            list(open_(f"https://127.0.0.1:{running.port}/a.jpg").list())
        assert time.monotonic() - began < 10


def test_F13_a_certificate_of_another_host_is_no_certificate(open_: Open, server: HttpsServer) -> None:
    with pytest.raises(UserError, match="certificate: Hostname mismatch"):
        list(open_(f"https://localhost:{server.port}/1.jpg", trusted="localhost").list())
    assert not server.seen


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("http://example.org/a.jpg", "only https:// is read"),
        ("ftp://example.org/a.jpg", "only https:// is read"),
        ("/etc/passwd", "only https:// is read"),
        ("https:///a.jpg", "only https:// is read"),
        ("https://example.org:x/a.jpg", "no address"),
        ("https://example.org/a b.jpg", "characters that no address has"),
        ("https://example.org/a\x7f.jpg", "characters that no address has"),
        ("https://user:geheim@example.org/a.jpg", "holds a password"),
        ("https://example.org/a.jpg?X-Amz-Signature=geheim", "holds a password, key or signature"),
        ("https://example.org/a.jpg\tcat\tclip\tmore", "has 4 fields"),
    ],
)
def test_F13_a_line_that_is_no_address_is_named_by_number(open_: Open, line: str, message: str) -> None:
    with pytest.raises(UserError, match=r"urls\.txt: line 3") as caught:
        list(open_("# images", "", line).list())
    assert message in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_a_list_is_a_source_with_labels_groups_and_one_fetch_of_each_image(server: HttpsServer, tmp_path: Path) -> None:
    host = f"127.0.0.1:{server.port}"
    lines = [f"https://{host}/{n}.jpg?size=full\t{'cat' if n % 2 else 'dog'}\tclip-{n // 3}" for n in range(6)]
    (tmp_path / "urls.txt").write_text("\n".join(lines))
    lock = take_snapshot(SnapshotParams(source=str(tmp_path / "urls.txt")), settings(tmp_path))
    assert lock.objects[1].annotation == Annotation("cat", "clip-0")
    build_manifest(lock, IngestParams(), tmp_path / "manifest", tmp_path / "shards", settings(tmp_path))
    manifest = Manifest.load(tmp_path / "manifest")
    assert manifest.class_names == ["cat", "dog"]
    assert manifest.images.num_rows == 6
    assert set(server.seen.values()) == {1}
    assert manifest.sources["uri"].to_pylist()[0] == "https://" + manifest.sources["name"].to_pylist()[0]
    assert object_uri(str(tmp_path / "urls.txt"), f"{host}/x") == f"https://{host}/x"


def test_another_snapshot_asks_what_has_changed_and_fetches_only_that(open_: Open, certificate: Path) -> None:
    versions = {"/1.jpg": 1, "/2.jpg": 1}
    whole = []

    def versioned(request: Request) -> None:
        etag = f'"{versions.get(request.path)}"'
        if request.path not in versions:
            request.give(404)
        elif request.headers.get("If-None-Match") == etag:
            request.give(304)
        else:
            whole.append(request.path)
            request.give(200, f"{request.path} {etag}".encode(), ETag=etag)

    with https_server(certificate, versioned) as running:
        lines = [f"https://127.0.0.1:{running.port}/{n}.jpg" for n in (1, 2, 3)]
        before = list(open_(*lines).list())
        assert list(open_(*lines).list()) == before
        assert sorted(whole) == ["/1.jpg", "/2.jpg"]
        versions |= {"/2.jpg": 2, "/3.jpg": 1}
        after = list(open_(*lines).list())
        assert after[0] == before[0]
        assert after[1].digest != before[1].digest
        assert len(after) == 3
        assert sorted(whole) == ["/1.jpg", "/2.jpg", "/2.jpg", "/3.jpg"]


@pytest.mark.parametrize(("status", "left"), [(404, 1), (410, 1), (500, 2), (503, 2), (429, 2)])
def test_what_fails_for_now_stays_and_what_is_gone_goes(open_: Open, certificate: Path, status: int, left: int) -> None:
    gone: list[str] = []

    def fading(request: Request) -> None:
        request.give(status) if request.path in gone else photo(request)

    with https_server(certificate, fading) as running:
        lines = [f"https://127.0.0.1:{running.port}/{n}.jpg" for n in (1, 2)]
        assert len(list(open_(*lines).list())) == 2
        gone.append("/2.jpg")
        assert len(list(open_(*lines).list())) == left
        assert running.seen["/2.jpg"] == 1 + (1 if left == 1 else https.ATTEMPTS)


def test_F9_an_answer_that_is_cut_short_is_asked_for_again(open_: Open, certificate: Path) -> None:
    def short_at_first(request: Request) -> None:
        first = sum(running.seen.values()) == 1
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(bytes(400 if first else 1000))

    with https_server(certificate, short_at_first) as running:
        (one,) = open_(f"https://127.0.0.1:{running.port}/1.jpg").list()
        assert one.size == 1000
        assert running.connections == 2


def test_what_changed_after_the_snapshot_is_named_where_it_is_not_kept(
    open_: Open, certificate: Path, tmp_path: Path
) -> None:
    body = [b"before"]
    with https_server(certificate, lambda request: request.give(200, body[0])) as running:
        source = open_(f"https://127.0.0.1:{running.port}/1.jpg")
        (one,) = source.list()
        body[0] = b"after"
        assert pickle.loads(pickle.dumps(source)).read(one.name, one.digest) == b"before"
        (kept,) = (path for path in (tmp_path / ".cache" / "selfsight" / "web").glob("??/*"))
        kept.write_bytes(b"damaged")
        with pytest.raises(UserError, match=r"1\.jpg: changed since the snapshot"):
            source.read(one.name, one.digest)
    with pytest.raises(UserError, match=r"fails .*again later"):
        source.read(one.name, one.digest)


def test_a_list_that_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "urls.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"urls\.txt: cannot be read"):
        list(open_source(str(tmp_path / "urls.txt"), role="train", settings=settings(tmp_path)).list())
    (tmp_path / "urls.txt").write_text("# nothing\n")
    with pytest.raises(UserError, match="is empty"):
        list(open_source(str(tmp_path / "urls.txt"), role="train", settings=settings(tmp_path)).list())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds that a test of the bound of time may take in all attempts, far below what one step may."""
    monkeypatch.setattr(https, "TOTAL_SECONDS", 0.3)
    return https.STEP_SECONDS / 2


def test_F13_the_bound_of_time_holds_while_nobody_answers_a_handshake(open_: Open, impatient: float) -> None:
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match=r"takes more than 0 s"):
        list(open_(f"https://127.0.0.1:{silent.getsockname()[1]}/1.jpg").list())
    assert time.monotonic() - began < impatient


def test_F13_the_bound_of_time_holds_where_it_is_over_before_there_is_a_connection(
    open_: Open, certificate: Path, impatient: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = socket.create_connection

    def late(*args: object, **options: object) -> socket.socket:
        time.sleep(https.TOTAL_SECONDS + 0.1)
        return connect(*args, **options)

    def trickle(request: Request) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "100")
        request.end_headers()
        for _ in range(100):
            request.wfile.write(b"x")
            time.sleep(0.1)

    monkeypatch.setattr(socket, "create_connection", late)
    began = time.monotonic()
    with https_server(certificate, trickle) as running, pytest.raises(UserError, match="takes more than 0 s"):
        list(open_(f"https://127.0.0.1:{running.port}/1.jpg").list())
    assert time.monotonic() - began < impatient


def ingested(lock: SourceLock, home: Path, out: str, forgotten: tuple[str, ...] = ()) -> None:
    build_manifest(lock, IngestParams(), home / out / "manifest", home / out / "shards", settings(home), forgotten)


def test_what_no_address_gives_any_more_and_what_is_forgotten_is_deleted(
    server: HttpsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = tmp_path / ".cache" / "selfsight" / "web"
    addresses = [f"https://127.0.0.1:{server.port}/{n}.jpg" for n in range(5)]

    def snapshot(*lines: str) -> SourceLock:
        (tmp_path / "urls.txt").write_text("\n".join(lines))
        return take_snapshot(SnapshotParams(source=str(tmp_path / "urls.txt")), settings(tmp_path))

    def kept() -> set[str]:
        return {path.name for path in web.glob("??/*")}

    def ids(lock: SourceLock) -> set[str]:
        return {one.digest.removeprefix("sha256:") for one in lock.objects}

    whole = snapshot(*addresses)
    WebCache(web).keep(addresses[0], encoded_noise(77), {})  # it changed, after the snapshot
    old = next(web.glob("??/*")).with_name(".partial-of-a-killed-process")
    old.write_bytes(b"half")
    ingested(whole, tmp_path, "a")
    assert kept() == {*ids(whole), sha256(encoded_noise(77)).hexdigest(), old.name}, "all young or named"
    fewer = snapshot(*addresses[:4])
    os.utime(old, (1, 1))
    for path in web.glob("??/*"):
        os.utime(path, (time.time() - https_cache.LEFTOVER_SECONDS - 60,) * 2)
    ingested(fewer, tmp_path, "b")
    assert kept() == ids(whole), "one is kept for a month after it was asked for last"
    for path in web.glob("??/*"):
        os.utime(path, (1, 1))
    lost = sha256(encoded_noise(3)).hexdigest()
    ingested(fewer, tmp_path, "c", forgotten=(lost,))
    assert kept() == ids(fewer) - {lost}
