"""Hostile files that hold images: nothing outside is read or written, nothing is contacted, the error is one line."""

import io
import socket
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.ingest import IngestParams, build_manifest
from components.data.manifest import Manifest
from components.data.shards import ShardReader
from components.data.snapshot import SnapshotParams, take_snapshot
from components.errors import UserError
from components.settings import Settings
from tests.unit.data.conftest import encoded_noise

pytestmark = pytest.mark.timeout(60)
SECRET = encoded_noise(99)
"""An image outside the source; that it is one makes it the harder to keep out."""
GOOD = {f"good/{n}.jpg": encoded_noise(n) for n in range(3)}


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder for the source, beside something that nobody may read or change."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x.jpg").write_bytes(SECRET)
    (tmp_path / "source").mkdir()
    return tmp_path


@pytest.fixture
def pipeline(world: Path) -> Iterator[Callable[[Path], list[bytes]]]:
    """Snapshot and ingest of a source; the images that came in. Afterwards the world must be as it was."""
    before = {path for path in world.rglob("*") if path.is_file()}
    settings = Settings(root=world / "work", home=world / "work", threads=1, _env_file=None)

    def run(source: Path) -> list[bytes]:
        before.update(path for path in world.rglob("*") if path.is_file())
        lock = take_snapshot(SnapshotParams(source=str(source)), settings)
        out = world / "work"
        build_manifest(lock, IngestParams(), out / "manifest", out / "shards", settings)
        manifest = Manifest.load(out / "manifest")
        with ShardReader(out / "shards", manifest.locations) as reader:
            return [reader.read(one) for one in manifest.ids()]

    yield run
    assert (world / "secret" / "x.jpg").read_bytes() == SECRET
    assert {path for path in world.rglob("*") if path.is_file() and not path.is_relative_to(world / "work")} == before


def pack(path: Path, *members: tarfile.TarInfo | tuple[str, bytes]) -> Path:
    """A tar of the good images and some more."""
    with tarfile.open(path, "w") as archive:
        for one in (*GOOD.items(), *members):
            info, data = (one, b"") if isinstance(one, tarfile.TarInfo) else (tarfile.TarInfo(one[0]), one[1])
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize("name", ["../secret/x.jpg", "a/../../secret/x.jpg", "/tmp/x.jpg", "..", "a/.."])
@pytest.mark.parametrize("shards", [False, True])
def test_F13_names_that_climb_out_stop_everything(
    world: Path, pipeline: Callable[[Path], list[bytes]], name: str, shards: bool
) -> None:
    path = pack(world / "source" / "a.tar", (name, encoded_noise(7)))
    with pytest.raises(UserError, match="names something outside of it") as caught:
        pipeline(path.parent if shards else path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shards", [False, True])
def test_F13_links_and_devices_are_left_out(world: Path, pipeline: Callable[[Path], list[bytes]], shards: bool) -> None:
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    hostile = [special(f"{n}.jpg", kind, str(world / "secret" / "x.jpg")) for n, kind in enumerate(kinds)]
    relative = special("r.jpg", tarfile.SYMTYPE, "../secret/x.jpg")
    path = pack(world / "source" / "a.tar", *hostile, relative)
    assert sorted(pipeline(path.parent if shards else path)) == sorted(GOOD.values())


def test_F13_a_link_and_then_a_file_through_it_write_nothing(
    world: Path, pipeline: Callable[[Path], list[bytes]]
) -> None:
    door = special("door", tarfile.SYMTYPE, str(world / "secret"))
    path = pack(world / "source" / "a.tar", door, ("door/x.jpg", encoded_noise(7)))
    assert SECRET not in pipeline(path)


@pytest.mark.parametrize("names", [("x.jpg", "x.jpg"), ("a/x.jpg", "./a/x.jpg"), ("a/x.jpg", "a//x.jpg")])
def test_F13_two_files_of_one_name_stop_everything(
    world: Path, pipeline: Callable[[Path], list[bytes]], names: tuple[str, str]
) -> None:
    path = pack(world / "source" / "a.tar", *((name, encoded_noise(n)) for n, name in enumerate(names)))
    with pytest.raises(UserError, match="two files are named"):
        pipeline(path)


def test_F13_paths_in_parquet_are_not_opened(world: Path, pipeline: Callable[[Path], list[bytes]]) -> None:
    paths = [str(world / "secret" / "x.jpg"), "../secret/x.jpg", "x\0.jpg", None]
    rows = [{"bytes": data, "path": path} for data, path in zip([*GOOD.values(), None], paths, strict=True)]
    rows.append({"bytes": None, "path": str(world / "secret" / "x.jpg")})
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), world / "source" / "x.parquet")
    assert sorted(pipeline(world / "source")) == sorted(GOOD.values())


@pytest.fixture
def listener() -> Iterator[tuple[int, list[object]]]:
    """A port, and who connected to it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        callers: list[object] = []

        def wait() -> None:
            while True:
                try:
                    connection, address = server.accept()
                except OSError:
                    return
                callers.append(address)
                connection.close()

        threading.Thread(target=wait, daemon=True).start()
        yield server.getsockname()[1], callers
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{url}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{path}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{path}'\n",
        "ffconcat version 1.0\nfile '{url}'\n",
        '<?xml version="1.0"?><MPD><Period><AdaptationSet><Representation><BaseURL>{url}</BaseURL>'
        "</Representation></AdaptationSet></Period></MPD>",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\n",
    ],
)
@pytest.mark.parametrize("extension", ["mp4", "mkv", "avi"])
def test_F13_a_video_that_names_other_files_or_addresses_opens_neither(
    world: Path,
    pipeline: Callable[[Path], list[bytes]],
    listener: tuple[int, list[object]],
    text: str,
    extension: str,
) -> None:
    pytest.importorskip("av")
    port, callers = listener
    url, path = f"http://127.0.0.1:{port}/x.ts", world / "secret" / "x.jpg"
    (world / "source" / f"a.{extension}").write_text(text.format(url=url, path=path, port=port))
    with pytest.raises(UserError, match="cannot be read as video") as caught:
        pipeline(world / "source")
    assert "\n" not in str(caught.value)
    assert callers == []


def extended(keyword: str, value: str) -> bytes:
    """A header that says something about the member after it."""
    info = tarfile.TarInfo("a.jpg")
    info.pax_headers = {keyword: value}
    return info.tobuf(tarfile.PAX_FORMAT)[:-512]


def header(name: str, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize(
    "hostile",
    [
        extended("size", "-1536"),  # to where it begins itself
        extended("size", "-3072"),  # to the image before it
        extended("size", str(1 << 70)),
        extended("GNU.sparse.size", "many"),
        header("././@PaxHeader", tarfile.XHDTYPE, 64 << 20) + bytes(64 << 20),
        header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 64 << 20) + bytes(64 << 20),
        header("././@LongLink", tarfile.GNUTYPE_LONGNAME, -512),
        (header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 512) + b"x".ljust(512, b"\0")) * 3000,
    ],
    ids=["back", "far-back", "far-ahead", "no-number", "long-pax", "long-name", "negative-name", "nested"],
)
@pytest.mark.timeout(20)
def test_F13_headers_that_lead_back_or_are_too_large_are_refused_at_once(
    world: Path, pipeline: Callable[[Path], list[bytes]], hostile: bytes
) -> None:
    path = world / "source" / "a.tar"
    last = tarfile.TarInfo("a.jpg").tobuf()
    path.write_bytes(pack(path).read_bytes()[: 3 * 1024] + hostile + last + bytes(1024))
    tracemalloc.start()
    with pytest.raises(UserError, match="not a whole tar") as caught:
        pipeline(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32 << 20
    assert "\n" not in str(caught.value)
