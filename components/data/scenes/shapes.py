"""Outlines of the classes: signed distances in the object's own coordinates.

An outline fits the unit disc, x to the right, y down. The functions return a distance that is negative
inside, about Euclidean near the outline, so that one pixel's width gives an anti-aliased edge. `p` and `q`
in [0, 1] are an instance's proportions. Cosines of multiples of an angle are Chebyshev polynomials of x / r: plain
arithmetic, the same on every machine.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

Field = Float[NDArray[np.float64], "height width"]
Shape = Callable[[Field, Field, float, float], Field]


def cosine_multiple(x: Field, y: Field, n: int) -> Field:
    """Return cos(n·angle) of the points (x, y), by the Chebyshev recurrence.

    The angle is measured from straight up, so that the pattern is symmetric left to right.
    """
    c = -y / np.sqrt(x * x + y * y + 1e-9)
    previous, current = np.ones_like(c), c
    for _ in range(n - 1):
        previous, current = current, 2.0 * c * current - previous
    return current


def _box(x: Field, y: Field, width: float, height: float) -> Field:
    return np.maximum(np.abs(x) - width, np.abs(y) - height)


def _half_plane(x: Field, y: Field, nx: float, ny: float, offset: float) -> Field:
    length = float(np.sqrt(nx * nx + ny * ny))
    return (nx * x + ny * y) / length - offset


def _ellipse(x: Field, y: Field, width: float, height: float) -> Field:
    u, v = x / width, y / height
    level = np.sqrt(u * u + v * v + 1e-9)
    slope = np.sqrt((u / width) ** 2 + (v / height) ** 2 + 1e-9)
    return (level - 1.0) * level / slope


def fish(x: Field, y: Field, p: float, q: float) -> Field:
    """Body with a tail fin on the left."""
    body = _ellipse(x - 0.16, y, 0.80, 0.42 + 0.16 * p)
    spread = 0.55 + 0.25 * q
    tail = np.maximum(-x - 0.97, _half_plane(x, np.abs(y), spread, 1.0, -0.27 * spread))
    return np.minimum(body, np.maximum(tail, x))


def house(x: Field, y: Field, p: float, q: float) -> Field:
    """Wall under a gable roof that juts out."""
    eaves = -0.15 + 0.25 * p
    wall = np.maximum(np.abs(x) - 0.62, np.maximum(y - 0.78, eaves - y))
    roof = np.maximum(_half_plane(np.abs(x), y + 0.95, 0.95 + eaves, -0.85, 0.0), y - eaves)
    chimney_x = 0.34 + 0.1 * q
    chimney = np.maximum(np.abs(x - chimney_x) - 0.1, np.maximum(-0.82 - y, y - eaves))
    return np.minimum(np.minimum(wall, roof), chimney)


def _rosette(x: Field, y: Field, mean: float, swing: float, n: int) -> Field:
    r = np.sqrt(x * x + y * y + 1e-9)
    outline = mean + swing * cosine_multiple(x, y, n)
    return (r - outline) / np.sqrt(1.0 + (0.6 * n * swing / np.maximum(r, 0.3)) ** 2)


def starfish(x: Field, y: Field, p: float, q: float) -> Field:
    """Five tapering arms."""
    r = np.sqrt(x * x + y * y + 1e-9)
    arms = 0.5 * (1.0 + cosine_multiple(x, y, 5))
    outline = 0.30 + 0.08 * p + (0.58 + 0.06 * q) * arms * arms
    return (r - outline) * 0.45


def leaf(x: Field, y: Field, p: float, q: float) -> Field:
    """Pointed lens with a stalk."""
    half = 0.34 + 0.16 * p
    radius = (0.8281 + half * half) / (2.0 * half)
    blade = np.sqrt((np.abs(x) + radius - half) ** 2 + (y + 0.06) ** 2) - radius
    stalk = _box(x, y - 0.84, 0.05 + 0.02 * q, 0.14)
    return np.minimum(blade, stalk)


def moon(x: Field, y: Field, p: float, q: float) -> Field:
    """Crescent, open to the right."""
    outer = np.sqrt(x * x + y * y) - 0.95
    shift = 0.52 + 0.18 * p
    inner = np.sqrt((x - shift) ** 2 + (y + 0.1 - 0.2 * q) ** 2) - 0.72
    return np.maximum(outer, -inner)


def gear(x: Field, y: Field, p: float, q: float) -> Field:
    """Toothed disc with a round hole."""
    r = np.sqrt(x * x + y * y + 1e-9)
    teeth = np.clip(2.5 * cosine_multiple(x, y, 8), -1.0, 1.0)
    rim = (r - (0.83 + 0.13 * teeth)) * 0.7
    return np.maximum(rim, 0.24 + 0.12 * p + 0.02 * q - r)


def flower(x: Field, y: Field, p: float, q: float) -> Field:
    """Six round petals."""
    return _rosette(x, y, 0.70 - 0.06 * p, 0.22 + 0.04 * q, 6)


def bow(x: Field, y: Field, p: float, q: float) -> Field:
    """Two triangles meeting in a knot."""
    slope = 0.55 + 0.25 * p
    wings = np.maximum((np.abs(y) - 0.12 - slope * np.abs(x)) / float(np.sqrt(1.0 + slope**2)), np.abs(x) - 0.9)
    wings = np.maximum(wings, np.abs(y) - 0.68)
    knot = np.sqrt(x * x + y * y) - (0.2 + 0.06 * q)
    return np.minimum(wings, knot)


def crate(x: Field, y: Field, p: float, q: float) -> Field:
    """Box with slightly rounded corners."""
    width, height = 0.66 + 0.06 * p, 0.66 + 0.06 * q
    dx, dy = np.maximum(np.abs(x) - width + 0.1, 0.0), np.maximum(np.abs(y) - height + 0.1, 0.0)
    corners: Field = np.sqrt(dx * dx + dy * dy) - 0.1
    return np.maximum(corners, _box(x, y, width, height))


def target(x: Field, y: Field, p: float, q: float) -> Field:
    """Oval disc."""
    return _ellipse(x, y, 0.95 - 0.12 * p, 0.95 - 0.12 * q)


SHAPES: Mapping[str, Shape] = {
    "fish": fish,
    "house": house,
    "starfish": starfish,
    "leaf": leaf,
    "moon": moon,
    "gear": gear,
    "flower": flower,
    "bow": bow,
    "crate": crate,
    "target": target,
}
"""Signed distance of every class."""
