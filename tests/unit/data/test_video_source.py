"""Frames of videos that PyAV writes."""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from components.data.ingest import IngestParams, build_manifest
from components.data.snapshot import SnapshotParams, take_snapshot
from components.data.sources import Annotation, Source, object_uri, open_source, video
from components.errors import UserError
from components.settings import Settings

av = pytest.importorskip("av")
Open = Callable[..., Source]
RATE = 10
"""Frames a second of the videos."""


@pytest.fixture
def open_(bare_settings: Settings) -> Open:
    def opened(uri: object, **patterns: object) -> Source:
        return open_source(str(uri), role="train", settings=bare_settings, **patterns)

    return opened


def film(path: Path, frames: int = 35, codec: str = "mpeg4", **options: str) -> Path:
    """A film whose frames are grey, each 7 lighter than the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=RATE, options={"g": "8", **options})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            grey = np.full((48, 64, 3), number * 7 % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    return path


def grey(data: bytes) -> float:
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == ("JPEG", (64, 48))
    return float(np.asarray(image).mean())


@pytest.mark.parametrize(
    ("name", "codec", "options", "tolerance"),
    [
        ("x.mp4", "libx264", {"bf": "2"}, 3),
        ("x.mov", "mpeg4", {"bf": "2"}, 8),  # its groups of pictures begin with frames that lean on the one before
        ("x.mkv", "libx264", {"bf": "2", "x264-params": "open-gop=1"}, 3),
        ("x.avi", "mpeg4", {}, 4),
        ("x.webm", "libvpx-vp9", {}, 4),
    ],
)
def test_frames_are_those_shown_at_the_rate_with_group_and_number(
    open_: Open, tmp_path: Path, name: str, codec: str, options: dict[str, str], tolerance: float
) -> None:
    path = film(tmp_path / name, codec=codec, **options)
    source = open_(f"{path}?fps=2")
    objects = list(source.list())
    assert [one.name for one in objects] == [f"00000{n // 2}.{n % 2 * 5}00.jpg" for n in range(7)]
    assert [one.annotation for one in objects] == [Annotation(None, name, 5 * n) for n in range(7)]
    assert [grey(source.read(one.name, one.digest)) for one in objects] == pytest.approx(
        [35 * n for n in range(7)], abs=tolerance
    )
    assert object_uri(f"{path}?fps=2", "000001.500.jpg") == f"{path}#000001.500.jpg"


def test_one_frame_a_second_unless_another_rate_is_given(open_: Open, tmp_path: Path) -> None:
    path = film(tmp_path / "x.mp4")
    assert len(list(open_(path).list())) == 4
    assert [one.name for one in open_(f"{path}?fps=2/3").list()] == [
        "000000.000.jpg",
        "000001.500.jpg",
        "000003.000.jpg",
    ]
    assert len(list(open_(f"{path}?fps=1000").list())) == 35
    with pytest.raises(UserError, match="0 frames a second"):
        open_(f"{path}?fps=0")


def test_the_bytes_of_a_frame_do_not_depend_on_what_was_read_before(open_: Open, tmp_path: Path) -> None:
    path = film(tmp_path / "x.mp4", frames=60, codec="libx264", bf="2")
    source = open_(f"{path}?fps=5")
    names = [one.name for one in source.list()]
    in_order = {name: source.read(name) for name in names}
    assert {name: source.read(name) for name in reversed(names)} == in_order
    for name in names[::7]:
        assert pickle.loads(pickle.dumps(source)).read(name) == in_order[name]


def test_a_folder_of_films_takes_labels_from_folders(open_: Open, tmp_path: Path) -> None:
    for name in ("run/a.mp4", "run/b.MP4", "jump/c.mkv"):
        film(tmp_path / "films" / name, frames=12)
    (tmp_path / "films" / "notes.txt").write_text("about")
    objects = list(open_(tmp_path / "films").list())
    assert [(one.name, one.annotation) for one in objects] == [
        (f"{file}/00000{second}.000.jpg", Annotation(file.partition("/")[0], file, 10 * second))
        for file in ("jump/c.mkv", "run/a.mp4", "run/b.MP4")
        for second in range(2)
    ]


def test_a_film_that_changed_since_the_snapshot_is_named(open_: Open, tmp_path: Path) -> None:
    path = film(tmp_path / "x.mp4")
    digest = next(iter(open_(path).list())).digest
    assert digest.startswith("video:")
    film(path, frames=36)
    with pytest.raises(UserError, match=r"'000000\.000\.jpg' changed since the snapshot"):
        open_(path).read("000000.000.jpg", digest)
    with pytest.raises(UserError, match="has no image 'x'"):
        open_(path).read("x")


def test_a_second_listing_decodes_and_hashes_nothing(
    open_: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.data.sources.digests.SETTLED_NS", 0)
    path = film(tmp_path / "x.mp4")
    before = list(open_(path).list())
    monkeypatch.setattr(av, "open", lambda *_, **__: pytest.fail("opened again"))
    monkeypatch.setattr("components.data.sources.video.digest_of_file", lambda _: pytest.fail("hashed again"))
    assert list(open_(path).list()) == before


def test_a_frame_that_does_not_decode_has_no_bytes(open_: Open, tmp_path: Path) -> None:
    path = film(tmp_path / "x.avi", g="1")
    source = open_(f"{path}?fps=10")
    names = [one.name for one in source.list()]
    data = bytearray(path.read_bytes())
    tag = data.index(b"movi")
    for _ in range(11):
        tag = data.index(b"00dc", tag + 1)
    size = int.from_bytes(data[tag + 4 : tag + 8], "little")
    data[tag + 8 : tag + 8 + size] = bytes(size)
    path.write_bytes(data)
    got = [open_(f"{path}?fps=10").read(name) for name in names]
    assert got[10] == b""
    assert all(grey(one) == pytest.approx(7 * n, abs=8) for n, one in enumerate(got) if n != 10)


def test_turned_films_are_read_upright(open_: Open, tmp_path: Path) -> None:
    path = film(tmp_path / "x.mp4", frames=2)
    data = path.read_bytes()
    track = data.index(b"tkhd") + 4 + 4 + 8 + 4 + 4 + 4 + 8 + 2 + 2 + 2 + 2
    one = 1 << 16
    matrix = b"".join(value.to_bytes(4, "big", signed=True) for value in (0, one, 0, -one, 0, 0, 0, 0, 1 << 30))
    path.write_bytes(data[:track] + matrix + data[track + 36 :])
    assert Image.open(io.BytesIO(open_(path).read("000000.000.jpg"))).size == (48, 64)


@pytest.mark.parametrize("what", ["junk", "empty", "sound"])
def test_what_is_no_film_is_one_clear_line(open_: Open, tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(b"junk" * 1000 if what == "junk" else b"")
    if what == "sound":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=44100)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            sound.sample_rate = 44100
            container.mux(stream.encode(sound))
            container.mux(stream.encode())
    with pytest.raises(UserError, match=r"x\.mp4: (cannot be read as video|has no video)") as caught:
        list(open_(path).list())
    assert "\n" not in str(caught.value)


def test_without_pyav_the_error_says_what_to_install(
    open_: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    (tmp_path / "x.mp4").write_bytes(b"x")
    with pytest.raises(UserError, match=r"av.*is missing.*selfsight\[video\]"):
        list(open_(tmp_path / "x.mp4").list())


@pytest.mark.parametrize(
    ("owner", "name", "error", "outcome"),
    [
        ("container", "seek", av.error.PermissionError(1, "Operation not permitted"), b""),
        ("container", "seek", av.error.InvalidDataError(1094995529, "Invalid data"), b""),
        ("container", "seek", av.error.MemoryError(12, "Cannot allocate memory"), MemoryError),
        ("container", "demux", av.error.MemoryError(12, "Cannot allocate memory"), MemoryError),
        ("encoded", "", ValueError("width"), b""),
        ("container", "seek", OSError(5, "Input/output error"), UserError),
    ],
)
def test_what_fails_in_the_midst_of_a_film_is_a_damaged_frame_unless_memory_or_the_disk_is_to_blame(
    open_: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: str,
    name: str,
    error: Exception,
    outcome: object,
) -> None:
    source = open_(film(tmp_path / "x.mp4"))
    (first, *_) = source.list()

    def fail(*_: object, **__: object) -> None:
        raise error

    if owner == "encoded":
        monkeypatch.setattr(video, "_encoded", fail)
    else:
        real = source._container("")._container
        failing = SimpleNamespace(seek=real.seek, demux=real.demux, streams=real.streams)
        setattr(failing, name, fail)
        source._container("").__dict__["_container"] = failing
    if isinstance(outcome, bytes):
        assert source.read(first.name, first.digest) == outcome
    else:
        with pytest.raises(outcome) as caught:
            source.read(first.name, first.digest)
        assert not isinstance(caught.value, av.error.FFmpegError)


@pytest.mark.parametrize("name", ["x.mp4", "x.mkv", "x.avi"])
def test_F12_damaged_films_stop_no_ingest(tmp_path: Path, bare_settings: Settings, name: str) -> None:
    whole = film(tmp_path / "films" / f"whole-{name}", codec="mpeg4").read_bytes()
    film(tmp_path / "films" / f"other-{name}", frames=20)
    ingested = 0
    for number in range(6):
        rng = np.random.default_rng(number)
        damaged = bytearray(whole if number else whole[: len(whole) * 3 // 4])
        for place in rng.integers(0, len(damaged), 4 * number):
            damaged[place] = int(rng.integers(256))
        path = tmp_path / "films" / f"damaged-{number}-{name}"
        path.write_bytes(damaged)
        params = SnapshotParams(source=str(path.parent / f"*{name}"))
        try:
            lock = take_snapshot(params, bare_settings)
        except UserError:  # its packets cannot be listed
            path.unlink()
            continue
        out = tmp_path / f"out-{number}"
        build_manifest(lock, IngestParams(), out / "manifest", out / "shards", bare_settings)
        ingested += 1
        path.unlink()
    assert ingested
