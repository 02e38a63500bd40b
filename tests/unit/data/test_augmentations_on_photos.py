"""Each augmentation of DINOv2 against a plain version in Pillow or NumPy, on real photos."""

import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from components.data import colour
from components.data.decoding import decode_rgb
from components.data.resampling import crop_with_matrices, resampled
from components.data.views import Draws, ViewParams, draw_views
from components.imagenet import IMAGENET_MEAN, IMAGENET_STD

PHOTOS = 12
SIDE = 96
LEVEL = 1 / 255
"""One step of an 8-bit value: what Pillow rounds to."""
FACTORS = np.linspace(0.6, 1.4, PHOTOS, dtype=np.float32)


@pytest.fixture(scope="module")
def files(real_data: Path) -> list[bytes]:
    with tarfile.open(real_data / "photos" / "photos.tar") as archive:
        members = sorted((one for one in archive if one.isfile()), key=lambda one: one.name)
        step = len(members) // PHOTOS
        return [archive.extractfile(one).read() for one in members[: step * PHOTOS : step]]  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def photos(files: list[bytes]) -> list[Image.Image]:
    """Square photos."""
    return [ImageOps.fit(decode_rgb(data), (SIDE, SIDE), Image.Resampling.BICUBIC) for data in files]


@pytest.fixture
def crops(photos: list[Image.Image]) -> Tensor:
    return torch.stack([tensor(one) for one in photos])


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255


def as_pillow(photos: list[Image.Image], plain: Callable[[Image.Image, float], Image.Image]) -> Tensor:
    return torch.stack([tensor(plain(one, float(factor))) for one, factor in zip(photos, FACTORS, strict=True)])


def draws(**changes: np.ndarray) -> Draws:
    """Draws that do nothing but what is asked for."""
    values = {
        "boxes": np.tile([0.0, 0, SIDE, SIDE], (PHOTOS, 1)),
        "flip": np.zeros(PHOTOS, bool),
        "jitter": np.zeros(PHOTOS, bool),
        "factors": np.tile(np.float32([1, 1, 1, 0]), (PHOTOS, 1)),
        "order": np.tile(np.arange(4, dtype=np.int8), (PHOTOS, 1)),
        "grey": np.zeros(PHOTOS, bool),
        "sigma": np.zeros(PHOTOS, np.float32),
        "solarise": np.zeros(PHOTOS, bool),
    }
    return Draws(**{**values, **changes})


@pytest.fixture(params=[colour.augment, colour.augment_together], ids=["compiled", "together"])
def augmented(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    """Augments as on a CPU or as on a GPU; the values are in 0..1 again."""

    def work(crops: Tensor, **changes: np.ndarray) -> Tensor:
        made: Tensor = request.param(crops.clone(), draws(**changes), 9)
        return made * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(3, 1, 1)

    return work


@pytest.mark.parametrize("augment", [colour.augment, colour.augment_together], ids=["compiled", "together"])
def test_normalisation(crops: Tensor, photos: list[Image.Image], augment: Callable[..., Tensor]) -> None:
    made = augment(crops.clone(), draws(), 9)
    plain = [(np.asarray(one) / 255 - IMAGENET_MEAN) / IMAGENET_STD for one in photos]
    assert np.allclose(made.permute(0, 2, 3, 1), np.stack(plain), atol=1e-5)


def test_flip(crops: Tensor, photos: list[Image.Image], augmented: Callable[..., Tensor]) -> None:
    made = augmented(crops, flip=np.arange(PHOTOS) % 2 == 0)
    plain = [ImageOps.mirror(one) if row % 2 == 0 else one for row, one in enumerate(photos)]
    assert torch.allclose(made, torch.stack([tensor(one) for one in plain]), atol=1e-6)


@pytest.mark.parametrize(
    ("number", "plain", "most"),
    [
        (0, lambda one, factor: ImageEnhance.Brightness(one).enhance(factor), 1),
        # Pillow rounds the grey it blends with, its mean, and the result
        (1, lambda one, factor: ImageEnhance.Contrast(one).enhance(factor), 2),
        (2, lambda one, factor: ImageEnhance.Color(one).enhance(factor), 2),
    ],
    ids=["brightness", "contrast", "saturation"],
)
def test_jitter_is_what_pillow_does(
    crops: Tensor,
    photos: list[Image.Image],
    augmented: Callable[..., Tensor],
    number: int,
    plain: Callable[..., Image.Image],
    most: int,
) -> None:
    factors = np.tile(np.float32([1, 1, 1, 0]), (PHOTOS, 1))
    factors[:, number] = FACTORS
    made = augmented(crops, jitter=np.ones(PHOTOS, bool), factors=factors)
    assert (made - as_pillow(photos, plain)).abs().max() < (most + 0.1) * LEVEL


def test_hue_is_a_turn_in_hsv(crops: Tensor, photos: list[Image.Image], augmented: Callable[..., Tensor]) -> None:
    """Pillow's HSV has 256 hues only: NumPy in float64 is the plain version, Pillow the coarse one."""
    turns = np.linspace(-0.1, 0.1, PHOTOS).astype(np.float32)
    factors = np.tile(np.float32([1, 1, 1, 0]), (PHOTOS, 1))
    factors[:, 3] = turns
    made = augmented(crops, jitter=np.ones(PHOTOS, bool), factors=factors)
    for row, (one, turn) in enumerate(zip(photos, turns, strict=True)):
        plain = turned(np.asarray(one) / 255.0, float(turn))
        assert np.allclose(made[row].permute(1, 2, 0), plain, atol=1e-4)
        hue, saturation, value = one.convert("HSV").split()
        shifted = Image.fromarray((np.asarray(hue).astype(int) + round(float(turn) * 256)).astype(np.uint8))
        coarse = tensor(Image.merge("HSV", (shifted, saturation, value)).convert("RGB"))
        assert (made[row] - coarse).abs().mean() < 3 * LEVEL


def turned(rgb: np.ndarray, turn: float) -> np.ndarray:
    """The six sectors of HSV, one by one."""
    value, least = rgb.max(-1), rgb.min(-1)
    chroma = value - least
    safe = np.where(chroma == 0, 1, chroma)
    red, green, blue = np.moveaxis(rgb, -1, 0)
    hue = np.where(value == red, (green - blue) / safe % 6, (red - green) / safe + 4)
    hue = np.where((value == green) & (value != red), (blue - red) / safe + 2, hue)
    hue = (np.where(chroma == 0, 0, hue) + 6 * turn) % 6
    middle = chroma * (1 - np.abs(hue % 2 - 1))
    nothing = np.zeros_like(chroma)
    sectors = [(chroma, middle, nothing), (middle, chroma, nothing), (nothing, chroma, middle),
               (nothing, middle, chroma), (middle, nothing, chroma), (chroma, nothing, middle)]  # fmt: skip
    stacked = np.stack([np.stack(sector, -1) for sector in sectors])
    chosen = np.take_along_axis(stacked, np.floor(hue).astype(int)[None, ..., None].clip(0, 5), axis=0)[0]
    return chosen + least[..., None]


def test_grey(crops: Tensor, photos: list[Image.Image], augmented: Callable[..., Tensor]) -> None:
    made = augmented(crops, grey=np.ones(PHOTOS, bool))
    plain = torch.stack([tensor(one.convert("L").convert("RGB")) for one in photos])
    assert (made - plain).abs().max() < 1.1 * LEVEL


def test_solarisation(crops: Tensor, photos: list[Image.Image], augmented: Callable[..., Tensor]) -> None:
    made = augmented(crops, solarise=np.ones(PHOTOS, bool))
    plain = torch.stack([tensor(ImageOps.solarize(one, threshold=128)) for one in photos])
    assert torch.allclose(made, plain, atol=1e-6)


def test_blur_is_a_convolution_with_reflected_edges(
    crops: Tensor, photos: list[Image.Image], augmented: Callable[..., Tensor]
) -> None:
    sigma = np.linspace(0.1, 2.0, PHOTOS).astype(np.float32)
    made = augmented(crops, sigma=sigma)
    for row, one in enumerate(photos):
        kernel = np.exp(-0.5 * (np.arange(-4, 5) / float(sigma[row])) ** 2)
        kernel /= kernel.sum()
        padded = np.pad(np.asarray(one) / 255.0, ((4, 4), (4, 4), (0, 0)), mode="reflect")
        tall = sum(weight * padded[place : place + SIDE] for place, weight in enumerate(kernel))
        plain = sum(weight * tall[:, place : place + SIDE] for place, weight in enumerate(kernel))
        assert np.allclose(made[row].permute(1, 2, 0), plain, atol=1e-4)


@pytest.mark.parametrize(("kind", "size"), [(0, 224), (1, 98)], ids=["global", "local"])
def test_crops_are_those_of_pillow_whatever_makes_them(files: list[bytes], kind: int, size: int) -> None:
    """Whole photos at their own sizes: compiled as on a CPU, and as products of matrices as on a GPU."""
    for number, data in enumerate(files[:4]):
        image = np.asarray(decode_rgb(data))
        height, width, _ = image.shape
        drawn = draw_views(ViewParams(), seed=0, epoch=number, image_id="ab" * 32, width=width, height=height)[kind]
        boxes = drawn.boxes[:2]
        plain = []
        for left, top, wide, tall in boxes.astype(int).tolist():
            box = (left, top, left + wide, top + tall)
            plain.append(tensor(decode_rgb(data).resize((size, size), Image.Resampling.BICUBIC, box=box)))
        compiled = resampled([image], boxes, size, torch.device("cpu"))
        assert (compiled - torch.stack(plain)).abs().max() < 1.1 * LEVEL
        assert (compiled - torch.stack(plain)).abs().mean() < 1e-3 * LEVEL
        as_matrices = crop_with_matrices(torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float(), boxes, size)
        assert (as_matrices - torch.stack(plain)).abs().max() < 2.5 * LEVEL


def test_scaled_decoding_gives_the_crops_of_the_whole_photo(files: list[bytes]) -> None:
    """A JPEG decoded at a half or a quarter gives, at the size of a local crop, nearly the same picture."""
    for data in files[:4]:
        whole = decode_rgb(data)
        large = whole.resize((4 * SIDE * whole.width // min(whole.size), 4 * SIDE * whole.height // min(whole.size)))
        buffer = BytesIO()
        large.save(buffer, "JPEG", quality=95)
        scaled = decode_rgb(buffer.getvalue(), min_side=SIDE)
        assert min(scaled.size) < min(large.size) / 2
        made, plain = (tensor(one.resize((32, 32), Image.Resampling.BICUBIC)) for one in (scaled, large))
        assert (made - plain).abs().mean() < 3 * LEVEL
