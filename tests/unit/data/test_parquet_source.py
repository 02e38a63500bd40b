"""Images in the rows of Parquet files."""

import json
import pickle
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.sources import Annotation, Source, object_uri, open_source
from components.errors import UserError
from components.settings import Settings

Open = Callable[..., Source]
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.fixture
def open_(bare_settings: Settings) -> Open:
    def opened(uri: object, **patterns: object) -> Source:
        return open_source(str(uri), role="train", settings=bare_settings, **patterns)

    return opened


def image(row: int) -> bytes:
    return b"image %d" % row * (row + 1)


def write(path: Path, columns: dict[str, pa.Array], features: dict[str, Any] | None = None, **options: Any) -> Path:
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def structs(rows: int, paths: list[str | None] | None = None) -> pa.Array:
    return pa.array([{"bytes": image(row), "path": paths and paths[row]} for row in range(rows)], STRUCT)


def test_the_layout_of_hugging_face_gives_images_and_names_of_classes(open_: Open, tmp_path: Path) -> None:
    labels = pa.array([0, 1, -1], pa.int64())
    features = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    paths = ["a/1.jpg", None, "../../etc/x.png"]
    path = write(tmp_path / "train-00000.parquet", {"image": structs(3, paths), "label": labels}, features)
    source = open_(path)
    objects = list(source.list())
    assert [(one.name, one.size, one.annotation) for one in objects] == [
        ("000000000-1.jpg", len(image(0)), Annotation("cat")),
        ("000000001", len(image(1)), Annotation("dog")),
        ("000000002-x.png", len(image(2)), Annotation()),
    ]
    assert [source.read(one.name, one.digest) for one in objects] == [image(row) for row in range(3)]
    assert objects[1].digest == f"sha256:{sha256(image(1)).hexdigest()}"
    assert object_uri(str(path), "000000001") == f"{path}#000000001"


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("column", ["image", "picture"])
def test_a_column_of_bytes_will_do(open_: Open, tmp_path: Path, kind: pa.DataType, column: str) -> None:
    names = pa.array(["a", "b"]).dictionary_encode()
    columns = {"id": pa.array([1, 2]), column: pa.array([image(0), image(1)], kind), "label": names}
    source = open_(write(tmp_path / "x.parquet", columns))
    assert [one.annotation for one in source.list()] == [Annotation("a"), Annotation("b")]
    assert source.read("000000001") == image(1)


def test_groups_and_frames_are_columns_and_rows_without_bytes_are_left_out(open_: Open, tmp_path: Path) -> None:
    images = pa.array([{"bytes": image(0), "path": None}, {"bytes": None, "path": "x.jpg"}, None], STRUCT)
    groups, frames = pa.array(["clip", "clip", None]), pa.array([7, 8, 9], pa.int16())
    (found,) = open_(write(tmp_path / "x.parquet", {"image": images, "group": groups, "frame": frames})).list()
    assert found.annotation == Annotation(None, "clip", 7)


def test_a_folder_of_parquet_is_read_in_any_order_across_row_groups(open_: Open, tmp_path: Path) -> None:
    for part in range(3):
        write(tmp_path / "data" / f"part-{part}.parquet", {"image": structs(100)}, row_group_size=30)
    source = pickle.loads(pickle.dumps(open_(tmp_path / "data")))
    objects = list(source.list())
    assert len(objects) == 300
    assert objects[101].name == "part-1.parquet/000000001"
    for step in (1, -1, 37):
        for one in objects[::step]:
            assert source.read(one.name, one.digest) == image(int(one.name[-9:]))


def test_a_second_listing_reads_new_files_only(open_: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("components.data.sources.digests.SETTLED_NS", 0)
    write(tmp_path / "data" / "a.parquet", {"image": structs(3)})
    before = list(open_(tmp_path / "data").list())
    opened: list[str] = []
    real = pa.memory_map
    monkeypatch.setattr(pa, "memory_map", lambda path: opened.append(Path(path).name) or real(path))
    assert list(open_(tmp_path / "data").list()) == before
    write(tmp_path / "data" / "b.parquet", {"image": structs(2)})
    assert len(list(open_(tmp_path / "data").list())) == 5
    assert opened == ["b.parquet"]


def test_a_row_that_changed_or_went_is_named(open_: Open, tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"image": structs(3)})
    digest = next(iter(open_(path).list())).digest
    with pytest.raises(UserError, match="'000000001' changed since the snapshot"):
        open_(path).read("000000001", digest)
    for gone in ("000000003", "x", "../x"):
        with pytest.raises(UserError, match=f"has no image '{gone}'"):
            open_(path).read(gone, digest)


def test_which_column_holds_the_images_is_not_guessed(open_: Open, tmp_path: Path) -> None:
    two = {"left": structs(1), "right": structs(1)}
    with pytest.raises(UserError, match=r"several columns hold bytes \(left, right\): name the one .* 'image'"):
        list(open_(write(tmp_path / "two.parquet", two)).list())
    with pytest.raises(UserError, match="no column holds bytes"):
        list(open_(write(tmp_path / "none.parquet", {"text": pa.array(["a"])})).list())


@pytest.mark.parametrize("damage", ["cut", "junk", "page"])
def test_F13_a_damaged_file_is_one_clear_line(open_: Open, tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "x.parquet", {"image": structs(200)}, compression="zstd")
    data = bytearray(path.read_bytes())
    if damage == "page":
        data[100:200] = bytes(100)
    path.write_bytes(data[: len(data) // 2] if damage == "cut" else b"junk" * 100 if damage == "junk" else data)
    with pytest.raises(UserError, match=r"x\.parquet: not a whole Parquet file") as caught:
        list(open_(path).list())
    assert "\n" not in str(caught.value)


def test_patterns_choose_rows_by_their_names(open_: Open, tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", {"image": structs(3, ["a.jpg", "mask.png", "c.jpg"])})
    assert [one.name for one in open_(path, exclude=["*mask*"]).list()] == ["000000000-a.jpg", "000000002-c.jpg"]
    assert [one.name for one in open_(path, include=["*.png"]).list()] == ["000000001-mask.png"]


@pytest.mark.parametrize("frame", [-1, 1 << 63])
def test_a_frame_that_is_no_number_of_one_is_named_by_its_row(open_: Open, tmp_path: Path, frame: int) -> None:
    frames = pa.array([7, frame], pa.int64() if frame < 0 else pa.uint64())
    path = write(tmp_path / "x.parquet", {"image": structs(2), "frame": frames})
    with pytest.raises(UserError, match=r"x\.parquet: row 1: no annotation in the columns .*frame: .*a number from 0"):
        list(open_(path).list())
