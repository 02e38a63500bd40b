from io import BytesIO

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw, ImageFilter

from components.curation.copies import Copies
from components.curation.deduplication import (
    SHARPNESS_SIDE,
    DedupParams,
    choose,
    copy_components,
    pair_table,
    sharpness,
)
from components.data.decoding import decode_rgb
from components.errors import UserError
from components.parameters import validate
from tests.textures import texture

IDS = ["a", "b", "c", "d", "e", "f"]


def copies(*pairs: tuple[int, int, float]) -> Copies:
    rows = np.array([pair[:2] for pair in pairs], np.int64).reshape(-1, 2)
    return Copies(rows, np.array([pair[2] for pair in pairs], np.float32), np.zeros(len(pairs), bool))


def mask(*rows: int) -> np.ndarray:
    found = np.zeros(len(IDS), bool)
    found[list(rows)] = True
    return found


def decided(
    components: np.ndarray, evaluation: np.ndarray, *, pixels: list[int] | None = None, **sharp: float
) -> dict[str, tuple[str, str, bool]]:
    table = choose(
        IDS, ~evaluation, evaluation, components, np.array(pixels or [1] * 6), lambda one: sharp.get(one, 0.0)
    )
    return {row["id"]: (row["component"], row["reason"], row["kept"]) for row in table.to_pylist()}


def leak_threshold(*rows: int, least: float = 0.6) -> np.ndarray:
    return np.where(mask(*rows), least, 2.0)


def test_copies_are_connected_over_a_third() -> None:
    components, accepted = copy_components(copies((0, 1, 0.9), (1, 2, 0.8), (3, 4, 0.79)), 0.8, leak_threshold())
    assert components.tolist() == [0, 0, 0, 3, 4, 5]
    assert accepted.tolist() == [True, True, False]


def test_a_leak_needs_less_agreement_than_a_duplicate() -> None:
    found = copies((0, 1, 0.7), (2, 3, 0.7))
    components, accepted = copy_components(found, 0.8, leak_threshold(3))
    assert accepted.tolist() == [False, True]
    assert components.tolist() == [0, 1, 2, 2, 4, 5]


def test_of_a_component_the_largest_is_kept() -> None:
    found = decided(np.array([0, 0, 0, 3, 4, 5]), mask(), pixels=[10, 30, 20, 1, 1, 1])
    assert found["a"] == ("a", "duplicate", False)
    assert found["b"] == ("a", "representative", True)
    assert found["c"] == ("a", "duplicate", False)
    assert found["d"] == ("d", "unique", True)


def test_among_equals_the_sharpest_is_kept_then_the_first() -> None:
    components = np.array([0, 0, 0, 3, 3, 3])
    found = decided(components, mask(), a=0.1, b=0.3, c=0.2)
    assert [one for one in IDS if found[one][2]] == ["b", "d"]


def test_a_component_that_touches_an_evaluation_image_goes_altogether() -> None:
    found = decided(np.array([0, 0, 0, 3, 3, 5]), mask(1))
    assert "b" not in found
    assert found["a"][1:] == found["c"][1:] == ("leak", False)
    assert found["d"][1:] == ("representative", True)


def test_an_image_of_both_parts_is_a_leak() -> None:
    table = choose(IDS, np.ones(6, bool), mask(2), np.arange(6), np.ones(6, np.int64), lambda one: 0.0)
    assert [row["reason"] for row in table.to_pylist()] == ["unique", "unique", "leak", "unique", "unique", "unique"]


def test_sharpness_is_asked_only_where_pixels_do_not_decide() -> None:
    asked: list[str] = []

    def sharp(one: str) -> float:
        asked.append(one)
        return 0.0

    choose(IDS, np.ones(6, bool), mask(), np.array([0, 0, 2, 2, 4, 5]), np.array([1, 2, 3, 3, 1, 1]), sharp)
    assert sorted(set(asked)) == ["c", "d"]


def test_no_training_images_give_an_empty_table_with_columns() -> None:
    table = choose(IDS, mask(), np.ones(6, bool), np.arange(6), np.ones(6, np.int64), lambda one: 0.0)
    assert table.num_rows == 0
    assert table.schema.field("kept").type == pa.bool_()


def test_blur_is_less_sharp_and_a_line_of_text_no_sharper() -> None:
    grain = np.random.default_rng(0).normal(0, 6, (192, 256, 1))
    picture = Image.fromarray(np.clip(np.asarray(texture(0, (256, 192))) + grain, 0, 255).astype(np.uint8))
    marked = picture.copy()
    ImageDraw.Draw(marked).text((10, 5), "A line of text", fill="white")
    assert sharpness(picture.filter(ImageFilter.GaussianBlur(2))) < 0.5 * sharpness(picture)
    assert sharpness(marked) == pytest.approx(sharpness(picture), rel=0.1)
    assert sharpness(Image.new("RGB", (2, 2))) == 0.0


@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "whole"])
def test_a_jpeg_is_as_sharp_as_the_png_it_was_made_of(scaled: bool) -> None:
    """The one is scaled while it is decoded, the other is not; the blurred one is neither's equal."""
    noise = np.random.default_rng(0).integers(0, 255, (192, 256, 3), np.uint8)
    picture = Image.fromarray(noise).resize((1024, 768), Image.Resampling.BICUBIC)
    blurred = picture.filter(ImageFilter.GaussianBlur(6))

    def measured(image: Image.Image, kind: str) -> float:
        buffer = BytesIO()
        image.save(buffer, kind, quality=95)
        return sharpness(decode_rgb(buffer.getvalue(), min_side=SHARPNESS_SIDE if scaled else None))

    assert measured(picture, "JPEG") == pytest.approx(measured(picture, "PNG"), rel=0.05)
    assert measured(blurred, "PNG") < 0.8 * measured(picture, "JPEG")


def test_accepted_pairs_are_named() -> None:
    found = copies((0, 1, 0.91), (2, 3, 0.1))
    table = pair_table(IDS, found, np.array([True, False]))
    assert table.select(["first", "second"]).to_pylist() == [{"first": "a", "second": "b"}]


def test_a_leak_threshold_above_the_other_is_refused() -> None:
    with pytest.raises(UserError, match="leak_threshold"):
        validate(DedupParams, {"threshold": 0.5, "leak_threshold": 0.9}, where="params.yaml")


def test_of_two_evaluation_sets_each_has_its_own_threshold() -> None:
    bounds = np.where(mask(1), 0.5, leak_threshold(3, least=0.7))
    components, accepted = copy_components(copies((0, 1, 0.6), (2, 3, 0.6), (4, 5, 0.6)), 0.8, bounds)
    assert accepted.tolist() == [True, False, False]
    assert components.tolist() == [0, 0, 2, 3, 4, 5]


def test_no_compared_pairs_leave_every_image_alone() -> None:
    components, accepted = copy_components(copies(), 0.8, leak_threshold(1))
    assert components.tolist() == list(range(6))
    assert len(accepted) == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"measure": "cosine"}, "give threshold and leak_threshold"),
        ({"evaluation_sets": [{"name": "a", "pattern": "a/*", "leak_threshold": 0.9}]}, "leak_threshold of a is above"),
        ({"evaluation_sets": [{"name": "evaluation", "pattern": "a/*", "leak_threshold": 0.5}]}, "a name of its own"),
        ({"evaluation_sets": 2 * [{"name": "a", "pattern": "a/*", "leak_threshold": 0.5}]}, "a name of its own"),
        ({"evaluation_sets": [{"name": "A b", "pattern": "a/*", "leak_threshold": 0.5}]}, "evaluation_sets.0.name"),
    ],
)
def test_f16_thresholds_that_cannot_be_meant_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        validate(DedupParams, values, where="params.yaml")


def test_what_must_be_compared_is_what_the_lowest_threshold_admits() -> None:
    sets = [
        {"name": "a", "pattern": "a/*", "leak_threshold": 0.4},
        {"name": "b", "pattern": "b/*", "leak_threshold": 0.5},
    ]
    params = validate(DedupParams, {"evaluation_sets": sets}, where="params.yaml")
    assert params.least == 0.4
