import io
import os
import pickle
import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from components.data.sources import Annotation, Source, object_uri, open_source
from components.data.sources import folder as folder_module
from components.data.sources.digests import DigestCache, Stamp, digest_of
from components.data.sources.listings import ListingCache, Member
from components.errors import UserError
from components.settings import Settings

Open = Callable[..., Source]


@pytest.fixture
def open_(bare_settings: Settings) -> Open:
    def opened(uri: object, **patterns: object) -> Source:
        return open_source(str(uri), role="train", settings=bare_settings, **patterns)

    return opened


def names(source: Source) -> list[str]:
    return [one.name for one in source.list()]


def pack(path: Path, members: dict[str, bytes | tarfile.TarInfo], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = b"" if isinstance(content, tarfile.TarInfo) else content
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def test_a_folder_lists_its_images_by_name_with_size_and_sha256(open_: Open, folder: Path) -> None:
    objects = list(open_(folder).list())
    assert [one.name for one in objects] == [f"cat/{n}.jpg" for n in range(3)] + [f"dog/{n}.jpg" for n in range(3, 6)]
    data = (folder / "cat" / "1.jpg").read_bytes()
    assert objects[1].size == len(data)
    assert objects[1].digest == f"sha256:{sha256(data).hexdigest()}"
    assert open_(folder).read("cat/1.jpg", objects[1].digest) == data


def test_a_folder_and_a_tar_of_it_are_the_same_objects(open_: Open, folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "images.tar"
    with tarfile.open(packed, "w") as archive:
        archive.add(folder, arcname=".")  # as `tar -C folder -cf images.tar .` does: names begin with ./
    assert list(open_(packed).list()) == list(open_(folder).list())
    assert open_(packed).read("dog/5.jpg") == (folder / "dog" / "5.jpg").read_bytes()


def test_patterns_choose_names_whatever_the_case(open_: Open, tmp_path: Path) -> None:
    for name in ("images/A.JPEG", "masks/A.png", "images/deep/b.Png", "images/c.txt", ".cache/d.jpg", "__MACOSX/e.jpg"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(b"x")
    assert names(open_(tmp_path / "x")) == ["images/A.JPEG", "images/deep/b.Png", "masks/A.png"]
    assert names(open_(tmp_path / "x", exclude=["Masks/*"])) == ["images/A.JPEG", "images/deep/b.Png"]
    assert names(open_(tmp_path / "x", include=["*.txt", "*/deep/*"])) == ["images/c.txt", "images/deep/b.Png"]


def test_jpegs_are_taken_by_any_of_their_extensions(open_: Open, tmp_path: Path) -> None:
    for name in ("a.jfif", "b.JPE", "c.jpeg", "d.jpg"):
        (tmp_path / name).write_bytes(b"x")
    assert names(open_(tmp_path)) == ["a.jfif", "b.JPE", "c.jpeg", "d.jpg"]


def test_files_that_are_not_taken_are_counted_by_extension(
    open_: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.jpg", "b.heic", "c.HEIC", "d.avif", "LABELS", "masks/e.svg", ".hidden.svg"):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(b"x")
    assert names(open_(tmp_path / "x", exclude=["masks/*"])) == ["a.jpg"]
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("x: 4 files are not taken for images: 2 .heic, 1 without extension, 1 .avif")
    caplog.clear()
    assert names(open_(tmp_path / "x", include=["*"], exclude=["masks/*"]))
    assert not caplog.records


def test_the_parent_folder_is_the_label_where_there_is_one(open_: Open, folder: Path) -> None:
    source = open_(folder)
    assert source.annotation("train/cat/1.jpg") == Annotation(label="cat")
    assert source.annotation("n01440764_tench.jpg") == Annotation()


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_an_object_that_changed_since_the_lock_is_named(open_: Open, folder: Path, tmp_path: Path, kind: str) -> None:
    path = folder if kind == "folder" else pack(tmp_path / "x.tar", {"cat/0.jpg": b"before"})
    with pytest.raises(UserError, match=r"cat/0\.jpg.* changed since the snapshot.*selfsight snapshot"):
        open_(path).read("cat/0.jpg", "sha256:00")
    with pytest.raises(UserError, match=r"gone\.jpg"):
        open_(path).read("gone.jpg")


def test_sources_are_picklable_for_worker_processes(open_: Open, folder: Path, tmp_path: Path) -> None:
    for path in (folder, pack(tmp_path / "x.tar", {"cat/0.jpg": (folder / "cat/0.jpg").read_bytes()})):
        source = open_(path)
        source.read("cat/0.jpg")
        assert pickle.loads(pickle.dumps(source)).read("cat/0.jpg") == (folder / "cat/0.jpg").read_bytes()


def test_the_second_listing_reads_no_file_again(open_: Open, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.data.sources.digests.SETTLED_NS", 0)
    first = list(open_(folder).list())
    monkeypatch.setattr("components.data.sources.folder.digest_of_path", lambda _: pytest.fail("hashed again"))
    assert list(open_(folder).list()) == first


def test_a_changed_file_is_hashed_again(open_: Open, folder: Path) -> None:
    path = folder / "cat" / "0.jpg"
    os.utime(path, ns=(0, 0))
    before = next(iter(open_(folder).list()))
    path.write_bytes(path.read_bytes()[::-1])  # same size
    os.utime(path, ns=(1, 1))
    assert next(iter(open_(folder).list())).digest != before.digest


def test_a_file_replaced_with_size_and_mtime_kept_is_hashed_again(
    open_: Open, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.data.sources.digests.SETTLED_NS", 0)
    path = folder / "cat" / "0.jpg"
    os.utime(path, ns=(0, 0))
    before = next(iter(open_(folder).list()))
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(0, 0))
    assert next(iter(open_(folder).list())).digest != before.digest


@pytest.mark.parametrize("stamp", [Stamp("x", 1, 2**62, 1), Stamp("x", 1, 1, 2**62)])
def test_a_file_written_a_moment_ago_is_not_remembered(tmp_path: Path, stamp: Stamp) -> None:
    """Within one tick of the clock it may change again without a new time."""
    cache = DigestCache(tmp_path / "digests.sqlite")
    assert list(cache.digests([stamp], lambda _: "first")) == ["first"]
    assert list(cache.digests([stamp], lambda _: "second")) == ["second"]


def test_a_damaged_or_unusable_cache_costs_time_only(tmp_path: Path) -> None:
    stamp = Stamp("x", 1, 1, 1)
    path = tmp_path / "digests.sqlite"
    path.write_bytes(b"no database" * 1000)
    assert list(DigestCache(path).digests([stamp], lambda _: "d")) == ["d"]
    (tmp_path / "file").touch()
    blocked = tmp_path / "file" / "digests.sqlite"
    assert list(DigestCache(blocked).digests([stamp], lambda _: "d")) == ["d"]
    assert list(DigestCache(path).digests([stamp], lambda _: "e")) == ["e"]
    assert list(DigestCache(path).digests([stamp], lambda _: pytest.fail("forgotten"))) == ["e"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_f13_a_link_that_leads_outside_is_refused(open_: Open, folder: Path, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "secret"
    outside.mkdir()
    (outside / "x.jpg").write_bytes(b"secret")
    (folder / "link.jpg").symlink_to(outside / "x.jpg" if kind == "file" else outside)
    with pytest.raises(UserError, match=r"link\.jpg: a link that leads outside"):
        list(open_(folder).list())
    if kind == "file":
        with pytest.raises(UserError, match=r"link\.jpg: a link that leads outside"):
            open_(folder).read("link.jpg")


def test_f13_names_that_climb_out_are_refused_on_reading(open_: Open, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    for name in ("../secret.jpg", "cat/../../secret.jpg", str(tmp_path / "secret.jpg")):
        with pytest.raises(UserError, match="names something outside"):
            open_(folder).read(name)


def test_links_inside_are_read_and_loops_dangling_links_and_pipes_are_not(open_: Open, folder: Path) -> None:
    before = names(open_(folder))
    (folder / "again.jpg").symlink_to(folder / "cat" / "0.jpg")
    (folder / "dangling.jpg").symlink_to(folder / "nothing.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "cat" / "up").symlink_to(folder)
    os.mkfifo(folder / "pipe.jpg")
    assert names(open_(folder)) == ["again.jpg", *before]


@pytest.mark.parametrize("name", ["../out.jpg", "/etc/out.jpg", "a/../../out.jpg"])
def test_f13_a_tar_with_a_name_that_climbs_out_is_refused(open_: Open, tmp_path: Path, name: str) -> None:
    path = pack(tmp_path / "x.tar", {"a.jpg": b"a", name: b"b"})
    with pytest.raises(UserError, match="names something outside"):
        list(open_(path).list())
    assert not (tmp_path / "out.jpg").exists()


def test_f13_two_members_of_one_name_are_refused(open_: Open, tmp_path: Path) -> None:
    path = pack(tmp_path / "x.tar", {"a/b.jpg": b"1", "./a/b.jpg": b"2"})
    with pytest.raises(UserError, match=r"two files are named 'a/b\.jpg'"):
        list(open_(path).list())


def test_f13_links_and_devices_in_a_tar_are_skipped(
    open_: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    members: dict[str, bytes | tarfile.TarInfo] = {"a.jpg": b"a"}
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        info = tarfile.TarInfo(f"{kind!r}.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        members[info.name] = info
    assert names(open_(pack(tmp_path / "x.tar", members))) == ["a.jpg"]
    assert "skipped 4 links, devices or sparse files" in caplog.text


def test_long_and_foreign_names_in_a_tar_are_read(open_: Open, tmp_path: Path) -> None:
    name = "ü" * 80 + "/" + "x" * 150 + ".jpg"
    source = open_(pack(tmp_path / "x.tar", {name: b"a"}))
    assert names(source) == [name]
    assert source.read(name) == b"a"


@pytest.mark.parametrize("damage", ["cut", "header", "junk", "gzip"])
def test_a_damaged_or_compressed_tar_is_refused_not_read_in_part(open_: Open, tmp_path: Path, damage: str) -> None:
    path = pack(tmp_path / "x.tar", {f"{n}.jpg": bytes(2000) for n in range(4)}, "w:gz" if damage == "gzip" else "w")
    whole = bytearray(path.read_bytes())
    if damage == "cut":
        whole = whole[:4000]
    elif damage == "header":
        whole[2 * 2560 + 5] ^= 0xFF  # the name in the third header: its checksum fails
    elif damage == "junk":
        whole = bytearray(b"junk" * 1000)
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"x\.tar: (not a whole tar|is empty)"):
        list(open_(path).list())


def test_two_tars_joined_by_cat_are_refused(open_: Open, tmp_path: Path) -> None:
    """Only the first one's images would be seen."""
    first, second = pack(tmp_path / "a.tar", {"a.jpg": b"a"}), pack(tmp_path / "b.tar", {"b.jpg": b"b"})
    joined = tmp_path / "x.tar"
    joined.write_bytes(first.read_bytes() + second.read_bytes())
    with pytest.raises(UserError, match=r"not a whole tar \(after its end more follows at byte 10240\)") as error:
        list(open_(joined).list())
    assert "tar --concatenate" in error.value.remedy


def test_a_tar_cut_between_two_members_is_refused(open_: Open, tmp_path: Path) -> None:
    path = pack(tmp_path / "x.tar", {f"{n}.jpg": bytes(2000) for n in range(4)})
    whole = path.read_bytes()
    for end in (2 * 2560, 4 * 2560, 4 * 2560 + 100):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"x\.tar: not a whole tar \(cut short: its end marker is missing\)"):
            list(open_(path).list())
    path.write_bytes(whole[: 4 * 2560 + tarfile.BLOCKSIZE])  # `head -c` of the padding harms nothing
    assert len(names(open_(path))) == 4
    path.write_bytes(whole + bytes(3 << 20))
    assert len(names(open_(path))) == 4


def test_large_members_are_hashed_in_parts_and_read_whole(
    open_: Open, tmp_path: Path, picture: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system gives at most 2 GiB at a time; here 1000 bytes."""
    data = picture(0, size=(200, 200), format="BMP")
    path = pack(tmp_path / "x.tar", {"a.bmp": data, "empty.bmp": b""})
    asked = []

    def stingy(descriptor: int, nbytes: int, offset: int) -> bytes:
        asked.append(nbytes)
        return pread(descriptor, min(nbytes, 1000), offset)

    pread = os.pread
    monkeypatch.setattr("os.pread", stingy)
    monkeypatch.setattr("components.data.sources.archive.CHUNK", 4096)
    source = open_(path)
    found = next(iter(source.list()))
    assert max(asked) == 4096
    assert found.digest == f"sha256:{sha256(data).hexdigest()}"
    assert source.read("a.bmp", found.digest) == data
    assert source.read("empty.bmp") == b""


def test_a_member_that_ends_early_changed_since_the_snapshot(open_: Open, tmp_path: Path) -> None:
    path = pack(tmp_path / "x.tar", {"a.jpg": bytes(5000)})
    source = open_(path)
    source.read("a.jpg")
    os.truncate(path, 3000)
    with pytest.raises(UserError, match=r"'a\.jpg' changed since the snapshot"):
        source.read("a.jpg")


def test_workers_do_not_index_a_tar_again(open_: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = pickle.dumps(open_(pack(tmp_path / "x.tar", {"a.jpg": b"a"})))
    monkeypatch.setattr("tarfile.open", lambda *_: pytest.fail("indexed again"))
    assert pickle.loads(sent).read("a.jpg") == b"a"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("nowhere", "'nowhere': no such file or folder"),
        ("", "no such file or folder"),
        ("http://169.254.169.254/latest/x.tar", "http://…: no such kind of source"),
        ("file:///etc", "file://…: no such kind of source"),
        ("s3://", "names no bucket"),
        ("s3://key:secret@bucket/x", "credentials"),
        ("scenes?speed=1", "unknown key 'speed'"),
    ],
)
def test_f13_what_is_no_source_is_refused_without_touching_it(open_: Open, uri: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        list(open_(uri).list())
    assert message in str(error.value)
    assert "secret" not in str(error.value)


def test_sources_without_images_say_which_kind_of_nothing_they_hold(open_: Open, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is empty"):
        list(open_(tmp_path / "empty").list())
    (tmp_path / "empty" / "a.txt").write_text("a")
    with pytest.raises(UserError, match=r"none of its 1 files is an image.*\*\.jpg"):
        list(open_(tmp_path / "empty").list())
    (tmp_path / "empty" / "a.zip").touch()
    with pytest.raises(UserError, match="neither a folder nor a file that holds images"):
        open_(tmp_path / "empty" / "a.zip")
    with pytest.raises(UserError, match="is empty"):
        list(open_(pack(tmp_path / "x.tar", {})).list())


def test_uris_of_objects_tell_where_they_are() -> None:
    assert object_uri("photos/", "a/b.jpg") == "photos/a/b.jpg"
    assert object_uri("s3://bucket/p", "a.jpg") == "s3://bucket/p/a.jpg"
    assert object_uri("x/train.tar", "a.jpg") == "x/train.tar#a.jpg"
    assert object_uri("scenes?images=9", "a.jpg") == "scenes?images=9#a.jpg"


@pytest.mark.parametrize("page", range(1, 9))
def test_a_digest_cache_whose_later_page_is_damaged_is_made_anew(tmp_path: Path, page: int) -> None:
    stamps = [Stamp(f"/images/{number:05d}.jpg", 1, 1, 1) for number in range(500)]
    path = tmp_path / "digests.sqlite"
    computed: list[Stamp] = []

    def compute(stamp: Stamp) -> str:
        computed.append(stamp)
        return digest_of(stamp.key.encode())

    expected = list(DigestCache(path).digests(stamps, compute))
    data = bytearray(path.read_bytes())
    assert len(data) >= 9 * 4096
    data[page * 4096 : (page + 1) * 4096] = b"\xff" * 4096
    path.write_bytes(data)
    for _ in range(2):
        assert list(DigestCache(path).digests(stamps, compute)) == expected
    computed.clear()
    assert list(DigestCache(path).digests(stamps, compute)) == expected
    assert computed == []


def test_a_listing_whose_row_is_damaged_is_taken_anew(tmp_path: Path) -> None:
    stamp, cache = Stamp("x.tar", 1, 1, 1), ListingCache(tmp_path / "digests.sqlite")
    expected = [Member("a.jpg", 1, "sha256:0")]
    assert cache.members(stamp, "tar", lambda: expected) == expected
    with closing(sqlite3.connect(cache.path)) as database, database:
        database.execute("UPDATE listings SET members = ?", (b"no stream",))
    assert cache.members(stamp, "tar", lambda: expected) == expected
    assert cache.members(stamp, "tar", lambda: pytest.fail("taken again")) == expected


@pytest.mark.parametrize("when", ["listed", "hashed"])
def test_files_that_vanish_meanwhile_are_not_there(
    open_: Open, folder: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    (folder / "later").mkdir()
    gone = [folder / "dog" / "4.jpg", folder / "notes.txt"]
    scan, hashed = os.scandir, folder_module.digest_of_path

    def scan_and_lose(path: str | Path) -> object:
        found = list(scan(path))
        if Path(path) == folder:
            (folder / "later").rmdir()
        if Path(path) == folder / "dog":
            for one in gone:
                one.unlink()
        return found

    def lose_and_hash(path: Path) -> str:
        for one in gone:
            one.unlink(missing_ok=True)
        return hashed(path)

    source = open_(folder)
    if when == "listed":
        monkeypatch.setattr(os, "scandir", scan_and_lose)
    else:
        monkeypatch.setattr(folder_module, "digest_of_path", lose_and_hash)
    assert names(source) == ["cat/0.jpg", "cat/1.jpg", "cat/2.jpg", "dog/3.jpg", "dog/5.jpg"]
