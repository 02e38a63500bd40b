"""Crops and colours match plain versions, and every sample's result is its own."""

import colorsys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.data import colour, resampling
from components.data.resampling import crop_with_matrices, resampled
from components.data.views import Draws, ViewParams, draw_views, kinds

ID = "ab" * 32


def noise(count: int, height: int, width: int) -> np.ndarray:
    """Pictures with structure at several scales."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    big = [Image.fromarray(one).resize((width, height), Image.Resampling.BICUBIC) for one in coarse]
    fine = rng.integers(-20, 20, (count, height, width, 3))
    return np.clip(np.stack([np.asarray(one) for one in big]) + fine, 0, 255).astype(np.uint8)


def crops_of(seed: int = 0, count: int = 6, side: int = 24) -> torch.Tensor:
    return torch.from_numpy(noise(count, side, side)).permute(0, 3, 1, 2).float() / 255


def with_pillow(image: np.ndarray, box: np.ndarray, size: int) -> torch.Tensor:
    x, y, w, h = box
    crop = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))
    return torch.from_numpy(np.asarray(crop).copy()).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("size", [7, 16, 32, 48])
def test_crops_match_pillow(size: int) -> None:
    images = noise(3, 40, 56)
    boxes = np.array([[0, 0, 56, 40], [10, 5, 20, 30], [30, 20, 9, 9], [0, 0, 9, 13], [47, 31, 9, 9], [3, 3, 37, 29.0]])
    made = crop_with_matrices(torch.from_numpy(images).permute(0, 3, 1, 2).float(), boxes, size)
    compiled = resampled(list(images), boxes, size, torch.device("cpu"))
    for row, box in enumerate(boxes):
        plain = with_pillow(images[row % 3], box, size)
        assert (made[row] - plain).abs().max() < 2.5 / 255  # Pillow rounds to 8 bits between its two passes
        assert (compiled[row] - plain).abs().max() < 1.1 / 255


def test_matrix_crops_match_pillow_on_real_photos(real_data: Path) -> None:
    import tarfile

    with tarfile.open(real_data / "cifar10" / "test.tar") as tar:
        members = [member for member in tar.getmembers() if member.isfile()][:20]
        images = np.stack([np.asarray(Image.open(tar.extractfile(member)).convert("RGB")) for member in members])
    drawn = [draw_views(ViewParams(), seed=0, epoch=0, image_id=ID, width=32, height=32)[1] for _ in members]
    boxes = Draws.stack(drawn).boxes
    made = crop_with_matrices(torch.from_numpy(images).permute(0, 3, 1, 2).float(), boxes, 16)
    plain = torch.stack([with_pillow(images[row % 20], box, 16) for row, box in enumerate(boxes)])
    assert (made - plain).abs().max() < 2.5 / 255


@pytest.mark.parametrize("limit", [1, 3 * 40 * 56 * 4 * 2, 3 * 40 * 56 * 4 * 7])
def test_crops_are_the_same_bits_however_little_is_resampled_at_a_time(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below the bytes of one image, one crop is made at a time."""
    images, boxes = of_three_sizes()
    whole = resampling.multiplied(images, boxes, 16, torch.device("cpu"))
    stacked = []

    def counted(some: torch.Tensor, rows: np.ndarray, size: int) -> torch.Tensor:
        stacked.append(len(rows) * some[0].numel() * 4)
        return crop_with_matrices(some, rows, size)

    monkeypatch.setattr(resampling, "CHUNK_BYTES", limit)
    monkeypatch.setattr(resampling, "crop_with_matrices", counted)
    assert torch.equal(resampling.multiplied(images, boxes, 16, torch.device("cpu")), whole)
    assert max(stacked) <= max(limit, 4 * max(image.size for image in images))


@pytest.mark.parametrize("crop", [resampling.resampled, resampling.multiplied], ids=["compiled", "matrices"])
def test_crops_of_an_image_are_what_they_would_be_alone(crop: Callable[..., torch.Tensor]) -> None:
    images, boxes = of_three_sizes()
    whole = crop(images, boxes, 16, torch.device("cpu"))
    for row, image in enumerate(images):
        assert torch.equal(whole[row :: len(images)], crop([image], boxes[row :: len(images)], 16, torch.device("cpu")))


def of_three_sizes() -> tuple[list[np.ndarray], np.ndarray]:
    images = [*noise(5, 40, 56), *noise(2, 30, 20), *noise(1, 150, 20)]
    drawn = [draw_views(ViewParams(), seed=0, epoch=n, image_id=ID, width=20, height=30)[1] for n in range(8)]
    return images, Draws.stack(drawn).boxes


def test_hue_matches_colorsys() -> None:
    crops = crops_of()
    turn = torch.tensor([-0.4, -0.1, 0.0, 0.05, 0.1, 0.5])
    made = colour.hue(crops.clone(), turn)
    for row in range(len(crops)):
        for y, x in ((0, 0), (5, 7), (11, 3)):
            h, s, v = colorsys.rgb_to_hsv(*crops[row, :, y, x].tolist())
            plain = colorsys.hsv_to_rgb((h + turn[row].item()) % 1, s, v)
            assert torch.allclose(made[row, :, y, x], torch.tensor(plain), atol=1e-5)


def test_grey_pixels_keep_their_hue() -> None:
    grey = torch.full((1, 3, 4, 4), 0.3)
    assert torch.equal(colour.hue(grey, torch.tensor([0.3])), grey)


def test_contrast_and_saturation_match_their_definition() -> None:
    crops = crops_of()
    factor = torch.linspace(0.5, 1.5, len(crops))
    contrasted, saturated = colour.contrast(crops, factor), colour.saturation(crops, factor)
    for row, f in enumerate(factor.tolist()):
        image = crops[row].double().numpy()
        grey = 0.2989 * image[0] + 0.587 * image[1] + 0.114 * image[2]
        assert np.allclose(contrasted[row], np.clip(f * image + (1 - f) * grey.mean(), 0, 1), atol=1e-5)
        assert np.allclose(saturated[row], np.clip(f * image + (1 - f) * grey, 0, 1), atol=1e-5)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_blur_matches_a_plain_convolution_with_reflected_edges(sigma: float) -> None:
    crops = crops_of(side=20)
    made = colour.blur(crops, torch.full((len(crops),), sigma), 9)
    offsets = np.arange(-4, 5)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(crops.double().numpy(), ((0, 0), (0, 0), (4, 4), (4, 4)), mode="reflect")
    rows = sum(weight * padded[:, :, i : i + 20, :] for i, weight in enumerate(kernel))
    plain = sum(weight * rows[:, :, :, i : i + 20] for i, weight in enumerate(kernel))
    assert np.allclose(made, plain, atol=1e-5)


def test_solarisation_inverts_bright_pixels_only() -> None:
    crops = torch.tensor([0.2, 128 / 255, 0.9]).view(1, 3, 1, 1)
    assert torch.allclose(colour.solarise(crops).flatten(), torch.tensor([0.2, 1 - 128 / 255, 0.1]), atol=1e-6)


@pytest.mark.parametrize("augment", [colour.augment, colour.augment_together], ids=["compiled", "together"])
def test_a_crop_of_the_batch_is_what_it_would_be_alone(augment: Callable[..., torch.Tensor]) -> None:
    params = ViewParams(global_size=24, local_size=12, local_crops=2)
    drawn = [draw_views(params, seed=1, epoch=2, image_id=f"{n:064x}", width=40, height=40)[0] for n in range(7)]
    images = torch.from_numpy(noise(7, 40, 40)).permute(0, 3, 1, 2).float()
    together = Draws.stack(drawn)
    batch = augment(crop_with_matrices(images, together.boxes, 24), together, 9)
    for row in range(7):
        own = Draws.stack(drawn[row : row + 1])
        alone = augment(crop_with_matrices(images[row : row + 1], own.boxes, 24), own, 9)
        assert torch.equal(batch[row::7], alone)


def test_both_ways_to_colour_crops_are_the_same() -> None:
    params = ViewParams(global_size=24, local_size=12, local_crops=6)
    drawn = [draw_views(params, seed=1, epoch=2, image_id=f"{n:064x}", width=40, height=40) for n in range(20)]
    for number, kind in enumerate(kinds(params)):
        draws = Draws.stack([one[number] for one in drawn])
        crops = crops_of(count=len(draws.boxes), side=kind.size)
        compiled, together = colour.augment(crops.clone(), draws, 9), colour.augment_together(crops.clone(), draws, 9)
        near = (compiled - together).abs() < 1e-4
        # a value at the threshold of solarisation may fall on either side of it
        assert near.float().mean() > 0.9999
        assert near[torch.from_numpy(~draws.solarise)].all()


def test_a_crop_of_one_pixel_and_a_kernel_wider_than_the_crop() -> None:
    for side in (1, 2, 3):
        crops = crops_of(count=2, side=side)
        draws = Draws(
            boxes=np.zeros((2, 4)),
            flip=np.array([True, False]),
            jitter=np.ones(2, bool),
            factors=np.float32([[1.2, 0.8, 1.1, 0.05], [0.7, 1.3, 0.9, -0.1]]),
            order=np.int8([[3, 2, 1, 0], [0, 1, 2, 3]]),
            grey=np.zeros(2, bool),
            sigma=np.float32([1.5, 0.4]),
            solarise=np.zeros(2, bool),
        )
        compiled, together = colour.augment(crops.clone(), draws, 9), colour.augment_together(crops.clone(), draws, 9)
        assert torch.allclose(compiled, together, atol=1e-4)


def test_draws_depend_on_seed_epoch_and_image_alone() -> None:
    params = ViewParams()

    def draw(seed: int, epoch: int, image_id: str) -> np.ndarray:
        return draw_views(params, seed=seed, epoch=epoch, image_id=image_id, width=50, height=40)[0].boxes

    base = draw(0, 0, ID)
    assert np.array_equal(base, draw(0, 0, ID))
    others = [draw(1, 0, ID), draw(0, 1, ID), draw(0, 0, "cd" * 32)]
    assert all(not np.array_equal(base, other) for other in others)


def test_boxes_lie_in_the_image_and_have_the_stated_area_and_aspect() -> None:
    params = ViewParams(global_scale=(0.3, 0.6))
    for number in range(50):
        boxes = draw_views(params, seed=0, epoch=number, image_id=ID, width=200, height=150)[0].boxes
        left, top, width, height = boxes.T
        assert (left >= 0).all()
        assert (top >= 0).all()
        assert (left + width <= 200).all()
        assert (top + height <= 150).all()
        area = width * height / (200 * 150)
        assert (area > 0.28).all()
        assert (area < 0.62).all()
        assert (width / height > 0.73).all()
        assert (width / height < 1.36).all()


def test_an_image_too_thin_for_any_box_gives_its_centre() -> None:
    params = ViewParams(global_scale=(0.9, 1.0))
    boxes = draw_views(params, seed=0, epoch=0, image_id=ID, width=1000, height=10)[0].boxes
    assert np.array_equal(boxes, np.tile([493.0, 0, 13, 10], (2, 1)))


@pytest.mark.parametrize(("convention", "expected"), [("released", (0.0, 0.9, 0.5)), ("paper", (1.0, 0.1, 0.5))])
def test_the_two_blur_conventions(convention: str, expected: tuple[float, ...]) -> None:
    params = ViewParams(blur=convention)  # type: ignore[arg-type]
    drawn = [draw_views(params, seed=0, epoch=n, image_id=ID, width=50, height=50) for n in range(400)]
    first, second = (np.mean([one[0].sigma[view] > 0 for one in drawn]) for view in (0, 1))
    local = np.mean([one[1].sigma > 0 for one in drawn])
    assert (first, second, local) == pytest.approx(expected, abs=0.06)


def test_only_the_second_global_crop_is_solarised() -> None:
    drawn = [draw_views(ViewParams(), seed=0, epoch=n, image_id=ID, width=50, height=50) for n in range(300)]
    rate = np.mean([one[0].solarise for one in drawn], axis=0)
    assert rate[0] == 0
    assert rate[1] == pytest.approx(0.2, abs=0.07)
    assert not any(one[1].solarise.any() for one in drawn)


def test_without_local_crops_there_is_one_kind() -> None:
    assert len(kinds(ViewParams(local_crops=0))) == 1
