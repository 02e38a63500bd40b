import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from components.features.alignment import Aligned, align
from components.features.registration import Placement, locate, registration_planes
from components.features.thumbnails import thumbnail
from tests.textures import texture

SIZE = (96, 96)


def planes_of(*images: Image.Image, side: int = 32) -> torch.Tensor:
    return registration_planes(torch.from_numpy(np.stack([thumbnail(image, side) for image in images])))


def placed(outer: Image.Image, inner: Image.Image) -> Placement:
    return locate(planes_of(outer, inner)[:, 0], torch.tensor([0]), torch.tensor([1]))


def aligned(outer: Image.Image, inner: Image.Image) -> Aligned:
    return align(planes_of(outer, inner), placed(outer, inner))


def test_a_picture_lies_on_itself() -> None:
    found = placed(texture(0, SIZE), texture(0, SIZE))
    assert found.correlation.item() == pytest.approx(1.0, abs=1e-4)
    assert found.scale.tolist() == [[1.0, 1.0]]
    assert found.offset.tolist() == [[0.0, 0.0]]
    assert not found.mirrored.item()


@pytest.mark.parametrize(("left", "top", "side"), [(0, 0, 77), (19, 10, 77), (5, 12, 82), (8, 8, 72)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_crop_is_found_where_it_was_cut(left: int, top: int, side: int, mirrored: bool) -> None:
    whole = texture(3, SIZE)
    crop = whole.crop((left, top, left + side, top + side))
    crop = ImageOps.mirror(crop) if mirrored else crop
    found = aligned(whole, crop)
    placement = found.placement
    assert placement.mirrored.item() == mirrored
    assert placement.scale[0].tolist() == pytest.approx([side / 96, side / 96], abs=0.02)
    assert placement.offset[0].tolist() == pytest.approx([left / 96, top / 96], abs=0.02)
    assert found.inside.float().mean() > 0.93
    assert (found.outer[:, 0] - found.inner[:, 0])[found.inside].abs().mean() < 0.12


def test_a_crop_is_found_in_the_whole_better_than_the_whole_in_it() -> None:
    whole = texture(5, SIZE)
    crop = whole.crop((10, 0, 87, 77))
    assert placed(whole, crop).correlation.item() > placed(crop, whole).correlation.item() + 0.05


def test_a_badge_does_not_pull_the_alignment() -> None:
    whole = texture(4, SIZE)
    marked = whole.crop((10, 4, 87, 81))
    marked.paste((255, 0, 255), (4, 4, 20, 20))
    placement = aligned(whole, marked).placement
    assert placement.offset[0].tolist() == pytest.approx([10 / 96, 4 / 96], abs=0.02)


def test_different_pictures_correlate_less_than_copies() -> None:
    pictures = [texture(seed, SIZE) for seed in range(12)]
    first, second = torch.combinations(torch.arange(12)).unbind(1)
    found = locate(planes_of(*pictures)[:, 0], first, second)
    assert found.correlation.max() < 0.85
    assert found.correlation.median() < 0.6


def test_a_pair_is_placed_alike_whatever_it_is_searched_with() -> None:
    """Rows of the search are padded and cut: more pairs of one picture than one row holds."""
    pictures = [texture(seed % 5, SIZE).rotate(seed, Image.Resampling.BICUBIC) for seed in range(40)]
    planes = planes_of(*pictures)[:, 0]
    outer, inner = torch.tensor([(i, j) for i in range(3) for j in range(3, 40)]).unbind(1)
    together = locate(planes, outer, inner)
    for row in (0, 17, 50, 110):
        alone = locate(planes, outer[row : row + 1], inner[row : row + 1])
        assert alone.correlation.item() == pytest.approx(together.correlation[row].item(), abs=1e-5)
        assert torch.equal(alone.offset[0], together.offset[row])


def test_a_plain_picture_correlates_with_nothing() -> None:
    found = placed(Image.new("RGB", SIZE, "grey"), texture(0, SIZE))
    assert abs(found.correlation.item()) < 1e-3


def test_no_pairs_are_placed_nowhere() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    found = locate(planes_of(texture(0))[:, 0], nothing, nothing)
    assert len(found.correlation) == 0
