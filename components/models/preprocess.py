"""How an image becomes a backbone's input."""

from pydantic import Field

from components.imagenet import IMAGENET_MEAN, IMAGENET_STD
from components.parameters import Params

SMALL_IMAGE = 128
"""Pixels: below, a centre crop would cut away what little there is."""


class Preprocess(Params):
    """How an image becomes the backbone's input."""

    image_size: int = Field(gt=0, description="side of the centre crop, pixels")
    resize: int = Field(gt=0, description="length of the shorter side before the crop, pixels (bicubic)")
    mean: tuple[float, ...] = Field(default=IMAGENET_MEAN, description="subtracted from channels in 0..1")
    std: tuple[float, ...] = Field(default=IMAGENET_STD, description="each channel is divided by it")


def usual_resize(image_size: int) -> int:
    """The shorter side before the centre crop where nobody has chosen one, pixels: 8/7 of the crop, 256 for 224."""
    return image_size if image_size < SMALL_IMAGE else round(image_size * 8 / 7)
