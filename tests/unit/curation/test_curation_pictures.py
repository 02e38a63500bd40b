from pathlib import Path

import pyarrow as pa
from PIL import Image

from components.curation.pictures import COLUMNS, GAP, GROUPS, TILE, duplicate_sheet, leak_sheet
from tests.textures import Files, jpeg, texture


def groups(*rows: tuple[str, str, str]) -> pa.Table:
    table = [
        {"id": one, "component": component, "kept": reason in ("unique", "representative"), "reason": reason}
        for one, component, reason in rows
    ]
    return pa.Table.from_pylist(table)


def test_a_group_is_drawn_side_by_side_the_kept_one_first(tmp_path: Path) -> None:
    red, green = Image.new("RGB", (40, 40), (255, 0, 0)), Image.new("RGB", (40, 20), (0, 255, 0))
    reader = Files({"a": jpeg(red), "b": jpeg(green)})
    assert duplicate_sheet(groups(("a", "a", "duplicate"), ("b", "a", "representative")), reader, tmp_path / "x.png")
    sheet = Image.open(tmp_path / "x.png")
    kept = sheet.getpixel((GAP + TILE // 2, GAP + TILE // 2))
    gone = sheet.getpixel((2 * GAP + TILE + TILE // 4, GAP + TILE // 4))
    assert kept[1] > 200 > 60 > kept[0]
    assert gone[0] > 200 > 60 > gone[1]


def test_nothing_to_show_draws_nothing(tmp_path: Path) -> None:
    assert not duplicate_sheet(groups(("a", "a", "unique"), ("b", "e", "leak")), Files({}), tmp_path / "x.png")
    pairs = pa.table({"first": ["a"], "second": ["b"], "agreement": [0.9]})
    assert not leak_sheet(pairs, set(), Files({}), tmp_path / "x.png")
    assert not (tmp_path / "x.png").exists()


def test_leaks_show_the_evaluation_image_and_its_copy(tmp_path: Path) -> None:
    reader = Files({"a": jpeg(texture(0)), "e": jpeg(texture(1)), "z": jpeg(texture(2))})
    pairs = pa.table({"first": ["a", "a"], "second": ["e", "z"], "agreement": [0.9, 0.8]})
    assert leak_sheet(pairs, {"e"}, reader, tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").width == COLUMNS * (TILE + GAP) + GAP


def test_of_many_groups_a_sample_is_drawn(tmp_path: Path) -> None:
    names = [f"{number:04d}" for number in range(4 * GROUPS)]
    reader = Files(dict.fromkeys(names, jpeg(texture(0))))
    rows = [
        (one, names[number // 2 * 2], ("representative", "duplicate")[number % 2]) for number, one in enumerate(names)
    ]
    duplicate_sheet(groups(*rows), reader, tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").height < 10 * (TILE + 3 * GAP)
