"""The multi-crop recipe of DINOv2: what is drawn for each image, as a pure function of (seed, epoch, id)."""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from components.parameters import Params

BLUR = {"released": (0.0, 0.9, 0.5), "paper": (1.0, 0.1, 0.5)}
"""Probability of blur on the first global, the second global and the local crops: what the released weights were
trained with (the official code inverts the probability), and what the paper states."""
RATIO = (3 / 4, 4 / 3)
TRIES = 10
_STREAM = 3


class ViewParams(Params):
    """Crops and colour operations (DINOv2, appendix; official `DataAugmentationDINO`)."""

    global_size: int = Field(default=224, gt=0, description="side of a global crop, pixels")
    local_size: int = Field(default=98, gt=0, description="side of a local crop, pixels")
    local_crops: int = Field(default=8, ge=0, description="local crops an image")
    global_scale: tuple[float, float] = Field(
        default=(0.32, 1.0), description="least and largest share of the image's area in a global crop"
    )
    local_scale: tuple[float, float] = Field(
        default=(0.05, 0.32), description="least and largest share of the image's area in a local crop"
    )
    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a horizontal flip")
    jitter: float = Field(default=0.8, ge=0, le=1, description="probability of colour jitter")
    brightness: float = Field(default=0.4, ge=0, le=1, description="jitter: brightness is scaled by 1 ± this")
    contrast: float = Field(default=0.4, ge=0, le=1, description="jitter: contrast is scaled by 1 ± this")
    saturation: float = Field(default=0.2, ge=0, le=1, description="jitter: saturation is scaled by 1 ± this")
    hue: float = Field(default=0.1, ge=0, le=0.5, description="jitter: hue is turned by ± this share of the circle")
    grey: float = Field(default=0.2, ge=0, le=1, description="probability of grey")
    blur: Literal["released", "paper", "none"] = Field(
        default="released", description="blur probabilities of first global, second global, local crops"
    )
    blur_kernel: int = Field(default=9, gt=0, description="width of the Gaussian kernel, pixels, odd")
    blur_sigma: tuple[float, float] = Field(default=(0.1, 2.0), description="least and largest sigma, pixels")
    solarise: float = Field(default=0.2, ge=0, le=1, description="probability of solarisation, second global crop")

    @model_validator(mode="after")
    def _check(self) -> "ViewParams":
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name} must be two shares with 0 < least <= largest <= 1")
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ValueError("blur_sigma must be two widths with 0 < least <= largest")
        if self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel {self.blur_kernel} must be odd")
        return self

    @property
    def blur_probabilities(self) -> tuple[float, float, float]:
        """Of the first global, the second global and the local crops."""
        return BLUR.get(self.blur, (0.0, 0.0, 0.0))


class Kind(NamedTuple):
    """Crops of one size."""

    size: int
    """Side, pixels."""
    views: int
    """Crops an image."""
    scale: tuple[float, float]
    """Share of the image's area."""


def kinds(params: ViewParams) -> list[Kind]:
    """The kinds of crops: global, then, if there are any, local."""
    both = [
        Kind(params.global_size, 2, params.global_scale),
        Kind(params.local_size, params.local_crops, params.local_scale),
    ]
    return [kind for kind in both if kind.views]


@dataclass(frozen=True)
class Draws:
    """What was drawn for the crops of one kind; every array has one row a crop.

    Attributes:
        boxes: Float64[crops, 4], left, top, width, height in pixels of the image.
        flip: Bool[crops].
        jitter: Bool[crops], whether colours are jittered.
        factors: Float32[crops, 4], brightness, contrast, saturation (around 1) and hue (around 0).
        order: Int8[crops, 4], the order of these four operations.
        grey: Bool[crops].
        sigma: Float32[crops], of the blur, 0 for none.
        solarise: Bool[crops].
    """

    boxes: np.ndarray
    flip: np.ndarray
    jitter: np.ndarray
    factors: np.ndarray
    order: np.ndarray
    grey: np.ndarray
    sigma: np.ndarray
    solarise: np.ndarray

    @staticmethod
    def stack(draws: list["Draws"]) -> "Draws":
        """Draws of several images for one kind, view-major: all images' view 0, then all images' view 1, …"""
        fields = Draws.__dataclass_fields__
        arrays = {name: np.stack([getattr(one, name) for one in draws], axis=1) for name in fields}
        return Draws(**{name: array.reshape(-1, *array.shape[2:]) for name, array in arrays.items()})


def draw_views(params: ViewParams, *, seed: int, epoch: int, image_id: str, width: int, height: int) -> list[Draws]:
    """Draws all crops of one image.

    Args:
        params: the recipe.
        seed: seed of the run.
        epoch: how often the image was seen before.
        image_id: SHA-256 of the image, hexadecimal.
        width: of the image, pixels.
        height: of the image, pixels.

    Returns:
        One `Draws` for each kind of `kinds`.
    """
    # Philox takes a 128-bit key as it is, without the hashing of a SeedSequence: ten times faster to make
    key = int(image_id[:16], 16) ^ (seed * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    rng = np.random.Generator(np.random.Philox(key=key | (epoch * 8 + _STREAM) << 64))
    probabilities = params.blur_probabilities
    drawn = []
    for number, kind in enumerate(kinds(params)):
        uniform = rng.random((kind.views, 14))
        tries = rng.random((kind.views, TRIES, 4))
        blurred = np.array(probabilities[:2] if number == 0 else probabilities[2:] * kind.views)
        low, high = params.blur_sigma
        solarised = np.array([0.0, params.solarise] if number == 0 else [0.0] * kind.views)
        spread = np.array([params.brightness, params.contrast, params.saturation, params.hue])
        drawn.append(
            Draws(
                boxes=_boxes(tries, kind.scale, width, height),
                flip=uniform[:, 0] < params.flip,
                jitter=uniform[:, 1] < params.jitter,
                factors=((2 * uniform[:, 2:6] - 1) * spread + [1, 1, 1, 0]).astype(np.float32),
                order=uniform[:, 6:10].argsort(axis=1, kind="stable").astype(np.int8),
                grey=uniform[:, 10] < params.grey,
                sigma=np.where(uniform[:, 11] < blurred, low + (high - low) * uniform[:, 13], 0).astype(np.float32),
                solarise=uniform[:, 12] < solarised,
            )
        )
    return drawn


def _boxes(draws: np.ndarray, scale: tuple[float, float], width: int, height: int) -> np.ndarray:
    """Random resized crop: area uniform, aspect log-uniform, the first of ten draws that fits, else a centre crop.

    Args:
        draws: Float64[crops, tries, 4], uniform: area, aspect, place along x and along y.
        scale: least and largest share of the area.
        width: of the image, pixels.
        height: of the image, pixels.
    """
    area = width * height * (scale[0] + (scale[1] - scale[0]) * draws[..., 0])
    low, high = math.log(RATIO[0]), math.log(RATIO[1])
    aspect = np.exp(low + (high - low) * draws[..., 1])
    wide = np.round(np.sqrt(area * aspect))
    tall = np.round(np.sqrt(area / aspect))
    fits = (wide >= 1) & (wide <= width) & (tall >= 1) & (tall <= height)
    first = fits.argmax(axis=1)
    rows = np.arange(len(draws))
    found = fits[rows, first]
    centre_wide, centre_tall = _central(width, height)
    wide = np.where(found, wide[rows, first], centre_wide)
    tall = np.where(found, tall[rows, first], centre_tall)
    place = draws[rows, first]
    left = np.where(found, np.floor(place[:, 2] * (width - wide + 1)), (width - wide) // 2)
    top = np.where(found, np.floor(place[:, 3] * (height - tall + 1)), (height - tall) // 2)
    return np.stack([left, top, wide, tall], axis=1)


def _central(width: int, height: int) -> tuple[int, int]:
    """Size of the central crop that keeps the aspect in range."""
    ratio = width / height
    if ratio < RATIO[0]:
        return width, round(width / RATIO[0])
    if ratio > RATIO[1]:
        return round(height * RATIO[1]), height
    return width, height
