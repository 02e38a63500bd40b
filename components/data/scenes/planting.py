"""Transformations that turn a picture into a near-duplicate of itself, for any picture.

The list is the yardstick of curation and is fixed: see "Truth for curation" in the targets. Crops keep 80 % of each
side; colour changes are by exactly 30 % up or down.
"""

from collections.abc import Callable, Mapping
from io import BytesIO

from numpy.random import Generator
from PIL import Image, ImageDraw, ImageEnhance, ImageFont

from components.data.scenes.draws import below, pick, sign, uniform

Picture = Image.Image
Transform = Callable[[Picture, Generator], Picture]
CROP = 0.8
COLOUR_CHANGE = 0.3
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def _jpeg(quality: int) -> Transform:
    def recompress(image: Picture, rng: Generator) -> Picture:
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(BytesIO(buffer.getvalue())).convert("RGB")

    return recompress


def _resize(factor: float) -> Transform:
    def resize(image: Picture, rng: Generator) -> Picture:
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        return image.resize(size, Image.Resampling.LANCZOS)

    return resize


def _crop_at(image: Picture, right: float, down: float) -> Picture:
    width, height = max(1, round(image.width * CROP)), max(1, round(image.height * CROP))
    left, top = round((image.width - width) * right), round((image.height - height) * down)
    return image.crop((left, top, left + width, top + height))


def _crop_centre(image: Picture, rng: Generator) -> Picture:
    return _crop_at(image, 0.5, 0.5)


def _crop_random(image: Picture, rng: Generator) -> Picture:
    return _crop_at(image, uniform(rng, 0.0, 1.0), uniform(rng, 0.0, 1.0))


def _flip(image: Picture, rng: Generator) -> Picture:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def _colour(enhancer: Callable[[Picture], ImageEnhance._Enhance]) -> Transform:
    def change(image: Picture, rng: Generator) -> Picture:
        return enhancer(image).enhance(1.0 + COLOUR_CHANGE * sign(rng))

    return change


def _overlay(image: Picture, rng: Generator) -> Picture:
    """Lay a small plain badge, a fifth of the shorter side, over one corner."""
    side = max(2, round(0.2 * min(image.size)))
    margin = max(1, side // 4)
    left = margin if rng.random() < 0.5 else image.width - side - margin
    top = margin if rng.random() < 0.5 else image.height - side - margin
    fill, edge = [tuple(below(rng, 256) for _ in range(3)) for _ in range(2)]
    marked = image.copy()
    draw = ImageDraw.Draw(marked)
    shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
    shape((left, top, left + side - 1, top + side - 1), fill=fill, outline=edge, width=max(1, side // 8))
    return marked


def _text(image: Picture, rng: Generator) -> Picture:
    """Write one line of 8 to 14 characters along the upper or the lower edge."""
    characters = "".join(pick(rng, LETTERS) for _ in range(8 + below(rng, 7)))
    font = ImageFont.load_default_imagefont()
    left, top, right, bottom = (int(edge) for edge in font.getbbox(characters))
    line = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(line).text((-left, -top), characters, fill=255, font=font)
    width = max(1, round(image.width * uniform(rng, 0.6, 0.9)))
    line = line.resize((width, max(1, round(width * line.height / line.width))), Image.Resampling.BILINEAR)
    x = round((image.width - width) * uniform(rng, 0.0, 1.0))
    y = round(0.04 * image.height) if rng.random() < 0.5 else round(0.96 * image.height) - line.height
    marked = image.copy()
    marked.paste(pick(rng, ((255, 255, 255), (0, 0, 0), (255, 220, 40))), (x, y), line)
    return marked


FAMILIES: Mapping[str, Mapping[str, Transform]] = {
    "jpeg": {"jpeg30": _jpeg(30), "jpeg50": _jpeg(50), "jpeg70": _jpeg(70), "jpeg90": _jpeg(90)},
    "resize": {"resize50": _resize(0.5), "resize75": _resize(0.75)},
    "crop": {"crop_centre80": _crop_centre, "crop_random80": _crop_random},
    "flip": {"flip": _flip},
    "colour": {
        "brightness": _colour(ImageEnhance.Brightness),
        "contrast": _colour(ImageEnhance.Contrast),
        "saturation": _colour(ImageEnhance.Color),
    },
    "overlay": {"overlay": _overlay},
    "text": {"text": _text},
}


def draw_parts(rng: Generator, name: str) -> tuple[str, ...]:
    """Return the transformations that `name` stands for: itself, or for `combined` two of different families."""
    if name != "combined":
        return (name,)
    first = pick(rng, tuple(FAMILIES))
    second = pick(rng, tuple(family for family in FAMILIES if family != first))
    return pick(rng, tuple(FAMILIES[first])), pick(rng, tuple(FAMILIES[second]))


def _combined(image: Picture, rng: Generator) -> Picture:
    for part in draw_parts(rng, "combined"):
        image = TRANSFORMS[part](image, rng)
    return image


TRANSFORMS: Mapping[str, Transform] = {
    **{name: transform for family in FAMILIES.values() for name, transform in family.items()},
    "combined": _combined,
}
"""Every planted transformation of an RGB picture, by its name in the truth table."""


def plant(image: Picture, rng: Generator, name: str) -> tuple[Picture, str]:
    """Make a near-duplicate.

    Args:
        image: any picture; it is converted to RGB and not changed.
        rng: generator of the random choices.
        name: key of `TRANSFORMS`.

    Returns:
        The copy, of another size for crops and resizes, and what was done, for `combined` as in `flip+jpeg30`.
    """
    parts = draw_parts(rng, name)
    image = image.convert("RGB")
    for part in parts:
        image = TRANSFORMS[part](image, rng)
    return image, "+".join(parts)
