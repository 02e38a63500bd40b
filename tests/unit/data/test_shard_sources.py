"""Folders and patterns of tars, and what WebDataset puts beside images."""

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from components.data.sources import Annotation, Source, object_uri, open_source
from components.errors import UserError
from components.settings import Settings

Open = Callable[..., Source]


@pytest.fixture
def open_(bare_settings: Settings) -> Open:
    def opened(uri: object, **patterns: object) -> Source:
        return open_source(str(uri), role="train", settings=bare_settings, **patterns)

    return opened


def pack(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of two images; keys repeat from shard to shard, as they do where several writers work."""
    for shard in range(3):
        members = {f"{key:06d}.{kind}": b"%d %d" % (shard, key) for key in range(2) for kind in ("jpg", "txt")}
        members |= {f"{key:06d}.cls": b"%d\n" % (shard + key) for key in range(2)}
        pack(tmp_path / "shards" / f"part-{shard:04d}.tar", members)
    (tmp_path / "shards" / "README.md").write_text("about")
    return tmp_path / "shards"


def test_a_folder_of_shards_is_the_images_of_all_of_them_with_the_labels_beside_them(open_: Open, shards: Path) -> None:
    source = open_(shards)
    objects = list(source.list())
    assert [(one.name, one.annotation) for one in objects] == [
        (f"part-{shard:04d}.tar/{key:06d}.jpg", Annotation(label=str(shard + key)))
        for shard in range(3)
        for key in range(2)
    ]
    for one in objects:
        data = source.read(one.name, one.digest)
        assert one.digest == f"sha256:{sha256(data).hexdigest()}"
        assert one.size == len(data)
    assert source.read("part-0002.tar/000001.jpg") == b"2 1"
    assert object_uri(str(shards), "part-0002.tar/000001.jpg") == f"{shards}/part-0002.tar/000001.jpg"


@pytest.mark.parametrize("pattern", ["part-*.tar", "part-{0000..0002}.tar", "part-000{0,1,2}.tar", "part-000[0-2].tar"])
def test_patterns_give_the_same_objects_as_the_folder(open_: Open, shards: Path, pattern: str) -> None:
    assert list(open_(shards / pattern).list()) == list(open_(shards).list())
    assert object_uri(str(shards / pattern), "part-0000.tar/x.jpg") == f"{shards}/part-0000.tar/x.jpg"


def test_a_pattern_is_relative_to_the_folder_that_one_is_in(
    open_: Open, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shards.parent)
    assert list(open_("shards/part-{0000..0002}.tar").list()) == list(open_(shards).list())
    monkeypatch.chdir(shards)
    assert list(open_("*.tar").list()) == list(open_(shards).list())
    assert object_uri("*.tar", "part-0000.tar/x.jpg") == "part-0000.tar/x.jpg"


def test_a_shard_that_braces_name_and_that_is_missing_is_named(open_: Open, shards: Path) -> None:
    with pytest.raises(UserError, match=r"part-0003\.tar: no such file"):
        open_(shards / "part-{0000..0003}.tar")
    with pytest.raises(UserError, match="no such file or folder"):
        open_(shards / "other-*.tar")
    with pytest.raises(UserError, match="more than 1000000 files"):
        open_(shards / "part-{0..9999999}.tar")


def test_patterns_of_names_choose_members_and_shards(open_: Open, shards: Path) -> None:
    found = [one.name for one in open_(shards, include=["*1.jpg"], exclude=["part-0001.tar/*"]).list()]
    assert found == ["part-0000.tar/000001.jpg", "part-0002.tar/000001.jpg"]


def test_a_folder_with_an_image_is_a_folder_of_images(open_: Open, shards: Path) -> None:
    (shards / "sub").mkdir()
    (shards / "sub" / "x.jpg").write_bytes(b"x")
    assert [one.name for one in open_(shards).list()] == ["sub/x.jpg"]


def test_files_of_two_kinds_in_a_folder_are_not_guessed_about(open_: Open, shards: Path) -> None:
    (shards / "x.parquet").write_bytes(b"x")
    with pytest.raises(UserError, match=r"holds Parquet files and tars: give those of one kind as a pattern"):
        open_(shards)
    with pytest.raises(UserError, match="matches Parquet files and tars"):
        open_(shards / "*")
    assert list(open_(shards / "*.tar").list())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"label": "cat", "group": "clip 7", "frame": 3, "caption": "a cat"}, Annotation("cat", "clip 7", 3)),
        ({"label": 5}, Annotation("5")),
        ({"caption": "nothing of use"}, None),
        ([1, 2], None),
    ],
)
def test_json_beside_an_image_may_say_label_group_and_frame(
    open_: Open, tmp_path: Path, values: object, said: Annotation | None
) -> None:
    path = pack(tmp_path / "x.tar", {"a/1.seg.jpg": b"1", "a/1.json": json.dumps(values).encode()})
    (found,) = open_(path).list()
    assert found.annotation == said
    assert open_(path).annotation("a/1.seg.jpg") == Annotation("a")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("1.cls", b"\xff\xfe"),
        ("1.cls", b"x" * 2000),
        ("1.json", b"{"),
        ("1.json", b"[" * 100_000),
        ("1.json", b'{"label": "\\ud800"}'),
        ("1.json", b'{"frame": 9223372036854775808}'),
        ("1.json", b'{"frame": -1}'),
    ],
)
def test_F13_what_is_no_label_is_named_and_may_be_left_out(open_: Open, tmp_path: Path, name: str, data: bytes) -> None:
    path = pack(tmp_path / "x.tar", {"1.jpg": b"1", name: data})
    with pytest.raises(UserError, match=rf"'{name}' is not a label.*snapshot\.exclude"):
        list(open_(path).list())


def test_F13_two_labels_of_one_image_are_refused(open_: Open, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in (("1.jpg", b"1"), ("1.cls", b"0"), ("1.cls", b"1")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(UserError, match=r"two files are named '1\.cls'"):
        list(open_(path).list())


def test_a_second_listing_opens_new_shards_only(
    open_: Open, shards: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("components.data.sources.digests.SETTLED_NS", 0)
    before = list(open_(shards).list())
    told = [record.getMessage() for record in caplog.records]
    opened: list[str] = []
    real = tarfile.open
    monkeypatch.setattr("tarfile.open", lambda path, *rest: opened.append(Path(path).name) or real(path, *rest))
    caplog.clear()
    assert list(open_(shards).list()) == before
    assert opened == []
    assert [record.getMessage() for record in caplog.records] == told != []
    with real(shards / "part-0003.tar", "w") as archive:
        archive.add(shards / "README.md", "000000.jpg")
    assert len(list(open_(shards).list())) == len(before) + 1
    assert opened == ["part-0003.tar"]


def test_a_changed_label_is_a_changed_object(open_: Open, shards: Path) -> None:
    before = {one.name: one for one in open_(shards).list()}
    pack(shards / "part-0000.tar", {"000000.jpg": b"0 0", "000000.cls": b"7", "000001.jpg": b"0 1", "000001.cls": b"1"})
    after = {one.name: one for one in open_(shards).list()}
    assert [name for name in before if before[name] != after[name]] == ["part-0000.tar/000000.jpg"]


def test_a_shard_that_went_or_changed_is_named_on_reading(open_: Open, shards: Path) -> None:
    source = open_(shards)
    digest = next(iter(source.list())).digest
    pack(shards / "part-0000.tar", {"000000.jpg": b"another"})
    again = pickle.loads(pickle.dumps(open_(shards)))
    with pytest.raises(UserError, match=r"part-0000\.tar.*'000000\.jpg' changed since the snapshot"):
        again.read("part-0000.tar/000000.jpg", digest)
    with pytest.raises(UserError, match=r"has no image '000001\.jpg'"):
        again.read("part-0000.tar/000001.jpg", digest)
    with pytest.raises(UserError, match=r"no file that holds 'part-0009\.tar/000001\.jpg'"):
        again.read("part-0009.tar/000001.jpg", digest)


def test_more_shards_than_are_kept_open_are_read_in_any_order(open_: Open, tmp_path: Path) -> None:
    for shard in range(10):
        pack(tmp_path / "many" / f"{shard}.tar", {"x.png": b"%d" % shard})
    source = open_(tmp_path / "many")
    for shard in (*range(10), *reversed(range(10))):
        assert source.read(f"{shard}.tar/x.png") == b"%d" % shard


def test_F13_a_shard_that_is_a_link_to_the_outside_is_refused(open_: Open, shards: Path, tmp_path: Path) -> None:
    (shards / "part-0009.tar").symlink_to(pack(tmp_path / "secret" / "x.tar", {"a.jpg": b"secret"}))
    for uri in (shards, shards / "*.tar"):
        with pytest.raises(UserError, match="a link that leads outside"):
            list(open_(uri).list())
