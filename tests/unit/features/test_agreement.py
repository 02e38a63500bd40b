import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance

from components.features.agreement import agreement, local_correlation
from components.features.alignment import align
from components.features.registration import locate, registration_planes
from components.features.thumbnails import thumbnail
from tests.textures import texture

SIZE = (96, 96)


def compared(first: Image.Image, second: Image.Image, measure=agreement) -> float:  # type: ignore[no-untyped-def]
    small = torch.from_numpy(np.stack([thumbnail(first), thumbnail(second)]))
    placement = locate(registration_planes(small)[:, 0], torch.tensor([0]), torch.tensor([1]))
    return float(measure(align(registration_planes(small), placement)))


def test_a_picture_agrees_with_itself_altogether() -> None:
    assert compared(texture(0, SIZE), texture(0, SIZE)) == pytest.approx(1.0)


@pytest.mark.parametrize("factor", [0.7, 1.3])
@pytest.mark.parametrize("enhancer", [ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color])
def test_a_change_of_colour_changes_little(enhancer, factor: float) -> None:  # type: ignore[no-untyped-def]
    assert compared(texture(1, SIZE), enhancer(texture(1, SIZE)).enhance(factor)) > 0.85


def test_a_small_badge_costs_its_area() -> None:
    marked = texture(2, SIZE)
    ImageDraw.Draw(marked).rectangle((70, 70, 88, 88), fill="yellow")
    assert 0.85 < compared(texture(2, SIZE), marked) < 1.0


def test_another_thing_in_the_same_place_is_no_copy() -> None:
    other = texture(2, SIZE)
    other.paste(texture(9, (44, 44)), (26, 26))
    assert compared(texture(2, SIZE), other) == 0.0


def test_different_pictures_agree_little() -> None:
    assert max(compared(texture(seed, SIZE), texture(seed + 20, SIZE)) for seed in range(12)) < 0.5


def test_fine_structure_tells_what_coarse_layout_does_not() -> None:
    rng = np.random.default_rng(0)
    layout = np.asarray(texture(5, SIZE)).astype(float)
    details = [np.kron(rng.normal(0, 40, (24, 24, 1)), np.ones((4, 4, 1))) for _ in range(2)]
    one, other = (Image.fromarray(np.clip(layout + detail, 0, 255).astype(np.uint8)) for detail in details)
    assert compared(one, one, local_correlation) > 0.9
    assert compared(one, other, local_correlation) < 0.75
