import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from components.features.descriptor import DIMENSION, describe, descriptor_name
from tests.textures import texture

PICTURES = [texture(seed) for seed in range(40)]


def test_vectors_have_unit_length_and_the_stated_dimension() -> None:
    vectors = describe(PICTURES)
    assert vectors.shape == (40, DIMENSION)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_a_vector_does_not_depend_on_the_other_pictures() -> None:
    assert np.allclose(describe(PICTURES)[7], describe(PICTURES[7:8])[0], atol=1e-6)


def test_a_mirrored_picture_is_described_alike() -> None:
    one, mirrored = describe([PICTURES[0], ImageOps.mirror(PICTURES[0])])
    assert one @ mirrored > 0.9999


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((image.width // 2, image.height // 2)),
        lambda image: image.crop((0, 0, round(0.8 * image.width), round(0.8 * image.height))),
        lambda image: ImageOps.mirror(image),
        lambda image: ImageEnhance.Brightness(image).enhance(0.7),
        lambda image: ImageEnhance.Contrast(image).enhance(1.3),
        lambda image: ImageEnhance.Color(image).enhance(0.7),
    ],
    ids=["half the size", "crop", "flip", "brightness", "contrast", "saturation"],
)
def test_a_changed_picture_is_nearest_to_its_original(change) -> None:  # type: ignore[no-untyped-def]
    similarity = describe([change(picture) for picture in PICTURES]) @ describe(PICTURES).T
    assert (similarity.argmax(axis=1) == np.arange(40)).mean() >= 0.95


def test_plain_pictures_are_described_without_numbers_that_are_none() -> None:
    assert np.isfinite(describe([Image.new("RGB", (9, 9), colour) for colour in ("black", "white", "red")])).all()


def test_no_pictures_give_no_vectors() -> None:
    assert describe([]).shape == (0, DIMENSION)


def test_the_name_carries_the_version() -> None:
    assert descriptor_name() == "builtin:v1"


def test_version_1_gives_the_vectors_it_always_gave() -> None:
    """A change of the vectors needs a new version: registered embedders and locks name it."""
    ramp = np.arange(48, dtype=np.uint8)[:, None, None] * np.array([1, 2, 3], dtype=np.uint8)
    vector = describe([Image.fromarray(np.broadcast_to(ramp, (48, 40, 3)).copy())])[0]
    assert vector[[10, 134, 240, 330, 453, 470]] == pytest.approx(EXPECTED, abs=2e-4)


EXPECTED = [0.02462, 0.12492, 0.09348, 0.16584, 0.30872, 0.15559]
