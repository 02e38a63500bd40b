"""Pictures without an object: pages of text, charts, noise, codes."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import UInt8
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from components.data.scenes.draws import below, colour, pick, uniform
from components.data.scenes.planting import LETTERS

Picture = Image.Image


def _rgb(rng: Generator, low: float, high: float) -> tuple[int, int, int]:
    values = colour(rng, uniform(rng, low, high), uniform(rng, 0.0, 0.3)) * 255.0
    return int(values[0]), int(values[1]), int(values[2])


def _page(rng: Generator, size: int) -> tuple[Picture, ImageDraw.ImageDraw, tuple[int, int, int]]:
    """Return an empty page, its pen, and an ink that can be read on it."""
    dark, light = _rgb(rng, 0.0, 0.3), _rgb(rng, 0.75, 1.0)
    paper, ink = (dark, light) if rng.random() < 0.3 else (light, dark)
    page = Image.new("RGB", (size, size), paper)
    return page, ImageDraw.Draw(page), ink


def _text(rng: Generator, size: int) -> Picture:
    """Draw lines of large letters in a few paragraphs."""
    page, _, ink = _page(rng, size)
    font = ImageFont.load_default_imagefont()
    height = max(5, round(size * uniform(rng, 0.10, 0.24)))
    left, y = round(size * uniform(rng, 0.0, 0.2)), round(size * uniform(rng, 0.0, 0.2))
    while y < size:
        word = "".join(pick(rng, LETTERS + "    ") for _ in range(3 + below(rng, 14)))
        line = Image.new("L", (6 * len(word), 11))
        ImageDraw.Draw(line).text((0, 0), word, fill=255, font=font)
        line = line.resize((max(1, line.width * height // 11), height), Image.Resampling.BILINEAR)
        page.paste(ink, (left, y), line)
        y += round(height * (1.15 if rng.random() < 0.75 else 2.2))
    return page


def _bars(rng: Generator, size: int) -> Picture:
    """Draw a bar chart with axes."""
    page, draw, ink = _page(rng, size)
    base, left = round(size * uniform(rng, 0.82, 0.94)), round(size * uniform(rng, 0.06, 0.2))
    count = 3 + below(rng, 6)
    step = (size - left) / (count + 0.5)
    fill = _rgb(rng, 0.3, 0.7)
    for bar in range(count):
        x = left + (bar + 0.3) * step
        draw.rectangle((round(x), round(base * uniform(rng, 0.05, 0.9)), round(x + 0.7 * step), base), fill=fill)
    draw.line((left, base, size, base), fill=ink, width=max(1, size // 40))
    draw.line((left, 0, left, base), fill=ink, width=max(1, size // 40))
    return page if rng.random() < 0.5 else page.transpose(Image.Transpose.ROTATE_270)


def _lines(rng: Generator, size: int) -> Picture:
    """Draw a chart of a few broken lines over a grid."""
    page, draw, ink = _page(rng, size)
    for k in range(1, 2 + below(rng, 5)):
        level = round(size * k / 6)
        draw.line((0, level, size, level), fill=_rgb(rng, 0.5, 0.7), width=1)
    for _ in range(1 + below(rng, 4)):
        count = 4 + below(rng, 8)
        points = [(size * k / (count - 1), size * uniform(rng, 0.05, 0.95)) for k in range(count)]
        draw.line(points, fill=_rgb(rng, 0.2, 0.6), width=max(1, size // 24))
    draw.line((1, 0, 1, size), fill=ink, width=max(1, size // 40))
    return page


def _noise(rng: Generator, size: int) -> Picture:
    """Draw coloured noise in coarse grains."""
    grains = 6 + below(rng, 20)
    values: UInt8[NDArray[np.uint8], "grains grains 3"] = (rng.random((grains, grains, 3)) * 256.0).astype(np.uint8)
    return Image.fromarray(values).resize((size, size), Image.Resampling.NEAREST)


def _code(rng: Generator, size: int) -> Picture:
    """Draw a square code of black and white modules."""
    modules = 9 + below(rng, 9)
    bits = (rng.random((modules, modules)) < 0.5).astype(np.uint8) * 255
    page, _, ink = _page(rng, size)
    side = round(size * uniform(rng, 0.6, 0.95))
    stamp = Image.fromarray(bits).resize((side, side), Image.Resampling.NEAREST)
    x, y = round((size - side) * uniform(rng, 0.0, 1.0)), round((size - side) * uniform(rng, 0.0, 1.0))
    page.paste(ink, (x, y), stamp)
    return page


KINDS: Mapping[str, Callable[[Generator, int], Picture]] = {
    "text": _text,
    "bars": _bars,
    "lines": _lines,
    "noise": _noise,
    "code": _code,
}
"""Kinds of off-topic pictures."""


def draw_off_topic_kind(rng: Generator) -> str:
    """Draw one of `KINDS`; the first draw of `draw_off_topic`."""
    return pick(rng, tuple(KINDS))


def draw_off_topic(rng: Generator, size: int) -> tuple[Picture, str]:
    """Draw a picture of size × size pixels that shows no object, and the name of its kind."""
    kind = draw_off_topic_kind(rng)
    return KINDS[kind](rng, size), kind
