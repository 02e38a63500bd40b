"""How an image becomes a backbone's input."""

from pydantic import Field

from components.parameters import Params

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Preprocess(Params):
    """How an image becomes the backbone's input."""

    image_size: int = Field(gt=0, description="side of the centre crop, pixels")
    resize: int = Field(gt=0, description="length of the shorter side before the crop, pixels (bicubic)")
    mean: tuple[float, ...] = Field(default=IMAGENET_MEAN, description="subtracted from channels in 0..1")
    std: tuple[float, ...] = Field(default=IMAGENET_STD, description="each channel is divided by it")
