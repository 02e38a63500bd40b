from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from components.curation import copies
from components.curation.copies import compare
from components.data.scenes.planting import TRANSFORMS, plant
from components.features.thumbnails import thumbnail
from tests.textures import texture

THRESHOLD = 0.76


def agreements(pictures: list[Image.Image], pairs: list[tuple[int, int]]) -> list[float]:
    small = np.stack([thumbnail(one) for one in pictures])

    def fine(rows: np.ndarray) -> np.ndarray:
        return np.stack([thumbnail(pictures[row], 64) for row in rows])

    found = compare(small, np.array(pairs).reshape(-1, 2), fine, least=0.7)
    assert found.pairs.tolist() == [list(pair) for pair in pairs]
    return [float(one) for one in found.agreement]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_planted_copies_are_found(name: str) -> None:
    rng = np.random.default_rng(0)
    originals = [texture(seed, (128, 96)) for seed in range(12)]
    planted = [plant(one, rng, name)[0] for one in originals]
    scores = agreements(originals + planted, [(number, number + 12) for number in range(12)])
    assert np.mean(np.array(scores) >= THRESHOLD) >= 0.75


def test_different_pictures_are_not_copies() -> None:
    pictures = [texture(seed) for seed in range(24)]
    pairs = [(first, second) for first in range(24) for second in range(first + 1, 24)]
    assert max(agreements(pictures, pairs)) < 0.5


def test_the_same_background_with_another_object_is_no_copy() -> None:
    pictures = []
    for seed in (50, 51):
        scene = texture(0, (96, 96))
        scene.paste(texture(seed, (48, 48)), (24, 24))
        pictures.append(scene)
    assert agreements(pictures, [(0, 1)])[0] < 0.7


def test_an_object_that_moved_before_its_background_is_no_copy() -> None:
    pictures = []
    for left in (10, 26):
        scene = texture(0, (96, 96))
        scene.paste(texture(50, (44, 44)), (left, 26))
        pictures.append(scene)
    assert agreements(pictures, [(0, 1)])[0] < 0.7


def test_the_order_of_a_pair_does_not_matter() -> None:
    whole = texture(1)
    crop = whole.crop((0, 0, round(0.8 * whole.width), round(0.8 * whole.height)))
    assert agreements([whole, crop], [(0, 1)])[0] == pytest.approx(agreements([crop, whole], [(0, 1)])[0], abs=0.02)


def test_mirroring_is_reported() -> None:
    small = np.stack([thumbnail(texture(2)), thumbnail(ImageOps.mirror(texture(2)))])
    found = compare(small, np.array([[0, 1]]), lambda rows: small[rows], least=2.0)
    assert found.mirrored.tolist() == [True]
    assert found.agreement[0] > 0.95


def test_plain_pictures_are_copies_of_their_own_colour_only() -> None:
    pictures = [Image.new("RGB", (50, 50), colour) for colour in ("white", "white", "black", "red")] + [texture(0)]
    assert agreements(pictures, [(0, 1), (0, 2), (0, 3), (0, 4)]) == [1.0, 0.0, 0.0, 0.0]


def test_the_size_of_the_blocks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [texture(seed) for seed in range(8)] + [texture(seed).resize((60, 45)) for seed in range(8)]
    pairs = [(first, second) for first in range(8) for second in range(8, 16)]
    whole = agreements(pictures, pairs)
    monkeypatch.setattr(copies, "BLOCK", 5)
    monkeypatch.setattr(copies, "ALIGN_BLOCK", 3)
    assert agreements(pictures, pairs) == pytest.approx(whole, abs=1e-3)


def test_pictures_are_looked_at_closely_only_where_they_agree() -> None:
    asked: list[int] = []
    pictures = [texture(0), texture(0), texture(1), texture(2)]
    small = np.stack([thumbnail(one) for one in pictures])

    def fine(rows: np.ndarray) -> np.ndarray:
        asked.extend(rows.tolist())
        return np.stack([thumbnail(pictures[row], 64) for row in rows])

    compare(small, np.array([[0, 1], [0, 2], [2, 3]]), fine, least=0.7)
    assert asked == [0, 1]


def test_no_pairs_need_no_pictures() -> None:
    fine: Callable[[np.ndarray], np.ndarray] = lambda rows: pytest.fail("asked for pictures")  # noqa: E731
    found = compare(np.zeros((3, 32, 32, 3), np.uint8), np.zeros((0, 2), np.int64), fine, least=0.7)
    assert len(found.agreement) == 0
