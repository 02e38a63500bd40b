from pathlib import Path

import pyarrow as pa
import pytest

from components.data.manifest import IMAGES, SOURCES, Manifest
from components.data.shards import LOCATIONS
from components.errors import UserError

A, B, C, D = (letter * 64 for letter in "abcd")


def manifest(truth: pa.Table | None = None) -> Manifest:
    def image(image_id: str, status: str = "ok") -> dict:
        return {"id": image_id, "status": status, "width": 3, "height": 2}

    def source(image_id: str, name: str, split: str, label: str | None = None, group: str | None = None) -> dict:
        return {"id": image_id, "uri": f"x/{name}", "name": name, "split": split, "label": label, "group": group}

    return Manifest(
        images=pa.Table.from_pylist([image(C), image(A), image(D, "quarantined"), image(B)], IMAGES),
        sources=pa.Table.from_pylist(
            [
                source(B, "b", "eval", "dog"),
                source(A, "a", "train", "cat", "clip-2"),
                source(A, "a2", "eval", "cat", "clip-1"),
                source(C, "c", "train", "cat"),
                source(C, "c2", "train", "dog"),
                source(D, "d", "train", "bird"),
            ],
            SOURCES,
        ),
        locations=pa.Table.from_pylist([{"id": A, "shard": "s", "offset": 512, "nbytes": 9}], LOCATIONS),
        truth=truth,
    )


def test_ids_are_sorted_and_an_image_of_both_splits_is_in_both() -> None:
    assert manifest().ids() == [A, B, C]
    assert manifest().ids("train") == [A, C]
    assert manifest().ids("eval") == [A, B]
    assert manifest().ids("train", status="quarantined") == [D]


def test_labels_on_which_sources_disagree_are_no_labels() -> None:
    assert manifest().labels([B, A, C, "unknown"]) == ["dog", "cat", None, None]
    assert manifest().class_names == ["bird", "cat", "dog"]


def test_groups_of_images() -> None:
    assert manifest().groups([A, B]) == ["clip-1", None]


def test_tables_are_saved_in_order_and_read_back(tmp_path: Path) -> None:
    truth = pa.table({"id": [A], "name": ["a"]})
    manifest(truth).save(tmp_path)
    loaded = Manifest.load(tmp_path)
    assert loaded.images["id"].to_pylist() == [A, B, C, D]
    assert loaded.sources["name"].to_pylist() == ["a2", "a", "b", "c", "c2", "d"]
    assert loaded.truth is not None
    assert loaded.truth.equals(truth)
    assert loaded.ids("train") == manifest().ids("train")


def test_without_truth_there_is_none(tmp_path: Path) -> None:
    manifest().save(tmp_path)
    assert Manifest.load(tmp_path).truth is None


def test_an_absent_manifest_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="dvc repro"):
        Manifest.load(tmp_path)
