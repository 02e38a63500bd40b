import numpy as np
import pytest
from PIL import Image

from components.data.scenes.draws import stream
from components.data.scenes.planting import FAMILIES, TRANSFORMS, plant


def picture(width=60, height=40):
    values = stream(0, "noise", width, height).random((5, 7, 3)) * 255
    return Image.fromarray(values.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)


def planted(name, image=None, number=0):
    return plant(image or picture(), stream(1, "plant", number), name)[0]


def error(image, other):
    return np.abs(np.asarray(image, dtype=float) - np.asarray(other, dtype=float)).mean()


def test_the_list_is_that_of_the_targets():
    assert list(TRANSFORMS) == [
        *("jpeg30", "jpeg50", "jpeg70", "jpeg90", "resize50", "resize75", "crop_centre80", "crop_random80", "flip"),
        *("brightness", "contrast", "saturation", "overlay", "text", "combined"),
    ]


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
def test_any_picture_can_be_planted_and_stays_as_it_was(name, mode):
    image = picture(97, 31).convert(mode)
    before = image.tobytes()
    copy, description = plant(image, stream(0, "plant", 4), name)
    assert copy.mode == "RGB"
    assert description
    assert (image.mode, image.tobytes()) == (mode, before)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("size", [(1, 1), (2, 300), (33, 32)])
def test_extreme_sizes_can_be_planted(name, size):
    copy = planted(name, Image.new("RGB", size, (9, 99, 199)))
    assert min(copy.size) >= 1


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_same_generator_gives_the_same_copy(name):
    assert planted(name, number=3).tobytes() == planted(name, number=3).tobytes()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_copy_is_not_its_original(name):
    copy = planted(name)
    assert copy.size != (60, 40) or copy.tobytes() != picture().tobytes()


def test_lower_jpeg_quality_loses_more():
    errors = [error(planted(f"jpeg{quality}"), picture()) for quality in (30, 50, 70, 90)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    ("name", "size"),
    [("resize50", (30, 20)), ("resize75", (45, 30)), ("crop_centre80", (48, 32)), ("crop_random80", (48, 32))],
)
def test_resizes_and_crops_have_the_stated_size(name, size):
    assert planted(name).size == size


def test_centre_crop_is_the_middle():
    assert planted("crop_centre80").tobytes() == picture().crop((6, 4, 54, 36)).tobytes()


def test_random_crops_differ_in_place():
    assert len({planted("crop_random80", number=k).tobytes() for k in range(8)}) > 4


def test_flip_twice_is_the_original():
    assert planted("flip", planted("flip")).tobytes() == picture().tobytes()


def test_brightness_changes_by_thirty_percent_up_or_down():
    grey = Image.new("RGB", (8, 8), (100, 100, 100))
    levels = {planted("brightness", grey, k).getpixel((0, 0))[0] for k in range(12)}
    assert levels == {70, 130}


@pytest.mark.parametrize("name", ["overlay", "text"])
def test_overlay_and_text_touch_a_small_part(name):
    for number in range(20):
        touched = (np.asarray(planted(name, number=number)) != np.asarray(picture())).any(axis=2).mean()
        assert 0.005 < touched < 0.2


def test_combined_joins_two_families():
    family = {name: key for key, members in FAMILIES.items() for name in members}
    for number in range(40):
        parts = plant(picture(), stream(2, "plant", number), "combined")[1].split("+")
        assert len({family[part] for part in parts}) == 2


def test_combined_directly_equals_combined_through_plant():
    direct = TRANSFORMS["combined"](picture(), stream(5, "plant", 1))
    assert direct.tobytes() == plant(picture(), stream(5, "plant", 1), "combined")[0].tobytes()
