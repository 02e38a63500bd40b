import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from components.curation.checks import REMEDY, ValidateParams, check_manifest, quarantine_table
from components.curation.expectations import CheckResult, failed_rows, report, require
from components.data.ingest import IngestParams
from components.data.manifest import IMAGES, SOURCES, Manifest
from components.data.shards import LOCATIONS
from components.errors import UserError


def sha(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def manifest(train: int = 6, evaluation: int = 2, quarantined: int = 1, **image: Any) -> Manifest:
    """A small manifest; `image` overrides columns of the first training image."""
    images, sources, locations = [], [], []
    for number in range(train + evaluation + quarantined):
        broken = number >= train + evaluation
        split = "train" if number < train or broken else "eval"
        name = f"{split}/cat/{number}.jpg"
        row = {"id": sha(name), "format": "JPEG", "width": 64, "height": 48, "phash": 7, "status": "ok", "reason": None}
        if broken:
            row |= {"phash": None, "status": "quarantined", "reason": "truncated"}
        images.append(row | image if number == 0 else row)
        sources.append(
            {"id": row["id"], "uri": f"folder/{name}", "name": name, "split": split, "label": "cat"}
            | {"group": None, "frame": None}
        )
        if not broken:
            locations.append({"id": row["id"], "shard": "shard-000000.tar", "offset": 512 * number, "nbytes": 300})
    return Manifest(
        pa.Table.from_pylist(images, schema=IMAGES),
        pa.Table.from_pylist(sources, schema=SOURCES),
        pa.Table.from_pylist(locations, schema=LOCATIONS),
    )


def failures(one: Manifest, **bounds: Any) -> list[str]:
    return [result.meaning for result in check_manifest(one, ValidateParams(**bounds)) if not result.success]


def stop_if_unfit(results: list[CheckResult]) -> None:
    require(results, subject="the images", remedy=REMEDY)


def test_a_good_manifest_passes_and_the_report_is_the_same_again() -> None:
    first = report(check_manifest(manifest(), ValidateParams()))
    assert all(entry["success"] for entry in first)
    assert first == report(check_manifest(manifest(), ValidateParams()))
    stop_if_unfit(check_manifest(manifest(), ValidateParams()))


@pytest.mark.parametrize(
    ("image", "bounds", "meaning"),
    [
        ({"format": "SVG"}, {}, "formats are known"),
        ({"width": 4}, {"max_odd": 0}, "shorter sides have 8 pixels at least"),
        ({"width": 60_000}, {"max_odd": 0}, "longer sides have 50000 pixels at most"),
        ({"width": 64 * 60}, {"max_odd": 0}, "longer sides are at most 50 times the shorter"),
        ({"width": 4}, {"max_odd": 0.12}, "shorter sides have 8 pixels at least, all but 12 %"),
        ({"phash": None}, {}, "every image has a perceptual hash"),
        ({"status": "perhaps"}, {}, "an image is read or quarantined"),
    ],
)
def test_a_bad_image_is_found(image: dict[str, Any], bounds: dict[str, Any], meaning: str) -> None:
    assert meaning in failures(manifest(**image), **bounds)


@pytest.mark.parametrize("image", [{"width": 4}, {"width": 20, "height": 2000}, {"width": 60_000}])
def test_one_odd_image_that_ingest_let_in_stops_nothing_and_is_told(image: dict[str, Any]) -> None:
    results = check_manifest(manifest(**image), ValidateParams())
    stop_if_unfit(results)
    assert ("train/cat/0.jpg", sha("train/cat/0.jpg")) in {row for result in results for row in result.rows}


def test_the_share_of_odd_images_is_a_bound_itself() -> None:
    assert failures(manifest(train=4, evaluation=1, width=4), max_odd=0.2) == []  # 1 of 5
    assert len(failures(manifest(train=3, evaluation=1, width=4), max_odd=0.2)) == 1


def test_what_ingest_lets_in_by_default_passes() -> None:
    """Otherwise every image within ingest's bounds and beyond these would be trained on and complained about."""
    ingest, bounds = IngestParams(), ValidateParams()
    assert ingest.min_side >= bounds.min_side
    assert ingest.max_aspect <= bounds.max_aspect


def test_the_error_names_expectation_and_image() -> None:
    with pytest.raises(UserError) as caught:
        stop_if_unfit(check_manifest(manifest(width=4), ValidateParams(max_odd=0)))
    assert "expect_column_values_to_be_between" in str(caught.value)
    assert f"train/cat/0.jpg ({sha('train/cat/0.jpg')[:12]})" in str(caught.value)
    assert "'validate' in params.yaml" in caught.value.remedy


def test_too_few_images_are_found() -> None:
    assert failures(manifest(train=3), min_images=4) == ["at least 4 training images can be read"]
    assert failures(manifest(evaluation=1), min_eval_images=2) == ["at least 2 evaluation images can be read"]


def test_too_many_quarantined_images_are_found() -> None:
    assert failures(manifest(train=6, evaluation=2, quarantined=2)) == []
    assert failures(manifest(train=6, evaluation=2, quarantined=3)) == ["at most 20 % of the images are quarantined"]


def test_an_image_without_bytes_is_found() -> None:
    whole = manifest()
    assert failures(replace(whole, locations=whole.locations.slice(1))) == ["every image is in a shard"]


def test_twice_the_same_id_is_found() -> None:
    whole = manifest()
    doubled = replace(whole, images=pa.concat_tables([whole.images, whole.images.slice(0, 1)]))
    assert "every image has one row" in failures(doubled)


def test_the_quarantine_is_told_by_reason() -> None:
    table = quarantine_table(manifest(quarantined=2))
    assert "| truncated | 2 | `train/cat/8.jpg`, `train/cat/9.jpg` |" in table
    assert quarantine_table(manifest(quarantined=0)) == "No image is quarantined.\n"


def test_all_rows_that_fail_are_listed() -> None:
    listed = failed_rows(check_manifest(manifest(width=4), ValidateParams(max_odd=0))).splitlines()
    assert listed[0] == "table,meaning,name,id"
    assert f"shorter sides have 8 pixels at least,train/cat/0.jpg,{sha('train/cat/0.jpg')}" in "\n".join(listed)


def test_data_docs_show_the_checks_and_no_markup_of_a_name(tmp_path: Path) -> None:
    whole = manifest(width=4)
    names = ["<script>alert(1)</script>$a${b}{{c}}%s.jpg"] * whole.sources.num_rows
    sources = whole.sources.set_column(whole.sources.column_names.index("name"), "name", pa.array(names))
    results = check_manifest(replace(whole, sources=sources), ValidateParams(max_odd=0), tmp_path)
    assert results[7].rows[0].name == names[0], "the report itself tells the true name"
    pages = [path.read_text() for path in tmp_path.rglob("*.html")]
    assert any("shorter sides have 8 pixels at least" in page for page in pages)
    assert any("‹script›alert(1)‹/script›$a${b}{{c}}%s.jpg" in page for page in pages)
    assert not any("<script>alert" in page for page in pages)


def test_bounds_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="max_side is below min_side"):
        ValidateParams(min_side=100, max_side=50)
