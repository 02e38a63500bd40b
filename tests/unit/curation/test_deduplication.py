import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw, ImageFilter

from components.curation.copies import Copies
from components.curation.deduplication import DedupParams, choose, copy_components, pair_table, sharpness
from components.errors import UserError
from components.parameters import validate
from tests.textures import texture

PARAMS = DedupParams(threshold=0.8, leak_threshold=0.6)
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


def test_copies_are_connected_over_a_third() -> None:
    components, accepted = copy_components(mask(), copies((0, 1, 0.9), (1, 2, 0.8), (3, 4, 0.79)), PARAMS)
    assert components.tolist() == [0, 0, 0, 3, 4, 5]
    assert accepted.tolist() == [True, True, False]


def test_a_leak_needs_less_agreement_than_a_duplicate() -> None:
    found = copies((0, 1, 0.7), (2, 3, 0.7))
    components, accepted = copy_components(mask(3), found, PARAMS)
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


def test_accepted_pairs_are_named() -> None:
    found = copies((0, 1, 0.91), (2, 3, 0.1))
    table = pair_table(IDS, found, np.array([True, False]))
    assert table.select(["first", "second"]).to_pylist() == [{"first": "a", "second": "b"}]


def test_a_leak_threshold_above_the_other_is_refused() -> None:
    with pytest.raises(UserError, match="leak_threshold"):
        validate(DedupParams, {"threshold": 0.5, "leak_threshold": 0.9}, where="params.yaml")
