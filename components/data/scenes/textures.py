"""Surface patterns of the classes, in the object's own coordinates.

A pattern gives, for every point, how far its colour lies from the instance's first towards its second colour, in
[0, 1]. Every pattern uses both in about equal parts and the colours change places between instances, so that no class
is darker or more colourful than another.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from components.data.scenes.shapes import cosine_multiple

Field = Float[NDArray[np.float64], "height width"]
Texture = Callable[[Field, Field, float, float, float], Field]
"""(x, y, frequency in [0, 1], phase in [0, 1], second phase in [0, 1]) → weight."""


def wave(t: Field) -> Field:
    """Triangle wave of period 1, from 1 at whole numbers to 0 half-way."""
    return np.abs(2.0 * (t - np.floor(t)) - 1.0)


def step(value: Field, sharpness: float) -> Field:
    """Soft step at 1/2: 0 below, 1 above, linear over 1 / sharpness."""
    return np.clip((value - 0.5) * sharpness + 0.5, 0.0, 1.0)


def scales(x: Field, y: Field, frequency: float, phase: float, second: float) -> Field:
    """Overlapping round scales in staggered columns."""
    n = 2.6 + 0.9 * frequency
    u = x * n + phase
    column = np.floor(u)
    v = y * n + second + 0.5 * (column - 2.0 * np.floor(column / 2.0))
    du, dv = u - column, v - np.floor(v) - 0.5
    return step(1.15 - np.sqrt(du * du + dv * dv * 1.3), 4.0)


def bricks(x: Field, y: Field, frequency: float, phase: float, second: float) -> Field:
    """Courses of bricks with wide joints."""
    n = 3.0 + 1.0 * frequency
    v = y * n + phase
    course = np.floor(v)
    u = x * n * 0.55 + second + 0.5 * (course - 2.0 * np.floor(course / 2.0))
    return step(np.maximum(wave(v), wave(u) * 1.2 - 0.2) - 0.1, 5.0)


def dots(x: Field, y: Field, frequency: float, phase: float, second: float) -> Field:
    """Round dots on a square lattice turned by 45°."""
    n = 2.4 + 0.7 * frequency
    a, b = wave((x + y) * n * 0.7071 + phase), wave((x - y) * n * 0.7071 + second)
    return step((a * a + b * b) * 0.8, 4.0)


def veins(x: Field, y: Field, frequency: float, phase: float, second: float) -> Field:
    """Midrib with slanting side veins."""
    n = 3.2 + 1.0 * frequency
    side = step(wave(n * (y + 0.7 * np.abs(x)) + phase), 4.0)
    rib = np.clip((0.12 + 0.04 * second - np.abs(x)) * 14.0, 0.0, 1.0)
    return np.maximum(side, rib)


def craters(x: Field, y: Field, frequency: float, phase: float, second: float) -> Field:
    """Rings of several sizes scattered by a fixed rule."""
    nearest = np.full_like(x, 9.0)
    for k in range(9):
        angle = 0.618034 * k + phase
        u, v = 1.0 - 4.0 * abs(angle % 1.0 - 0.5), 1.0 - 4.0 * abs((angle + 0.25) % 1.0 - 0.5)
        reach = 0.35 + 0.6 * ((0.37 * k + second) % 1.0)
        radius = (0.14 + 0.10 * ((0.71 * k) % 1.0)) * (1.15 - 0.3 * frequency)
        d = np.sqrt((x - u * reach) ** 2 + (y - v * reach) ** 2) / radius
        nearest = np.minimum(nearest, d)
    return np.clip(1.8 - np.abs(nearest - 0.55) * 3.0, 0.0, 1.0)


def checks(x: Field, y: Field, frequency: float, phase: float, second: float) -> Field:
    """Checkerboard."""
    n = 1.6 + 0.5 * frequency
    return step(0.5 + 2.0 * (wave(x * n + phase) - 0.5) * (wave(y * n + second) - 0.5), 4.0)


def petals(x: Field, y: Field, frequency: float, phase: float, second: float) -> Field:
    """Dark centre, petals shaded along their length."""
    r = np.sqrt(x * x + y * y + 1e-9)
    streaks = 0.5 + 0.5 * cosine_multiple(x, y, 12) * np.clip(3.0 * r - 0.6, 0.0, 1.0)
    centre = np.clip((0.30 + 0.08 * frequency - r) * 12.0, 0.0, 1.0)
    return np.maximum(step(0.35 + 0.15 * phase + 0.5 * (streaks - 0.5) - 0.1 * second + 0.15, 3.0), centre)


def stripes(x: Field, y: Field, frequency: float, phase: float, second: float) -> Field:
    """Straight stripes along the height."""
    n = 2.4 + 1.0 * frequency
    return step(wave(x * n + phase + 0.1 * second * y), 4.0)


def planks(x: Field, y: Field, frequency: float, phase: float, second: float) -> Field:
    """Frame, diagonal brace and the gaps of horizontal planks."""
    frame = np.clip((np.maximum(np.abs(x), np.abs(y)) - 0.48) * 12.0, 0.0, 1.0)
    slant = x - y if second < 0.5 else x + y
    brace = np.clip((0.20 - np.abs(slant)) * 12.0, 0.0, 1.0)
    gaps = np.clip((wave(y * (2.2 + 0.6 * frequency) + phase) - 0.72) * 6.0, 0.0, 1.0) * 0.8
    return np.maximum(np.maximum(frame, brace), gaps)


def rings(x: Field, y: Field, frequency: float, phase: float, second: float) -> Field:
    """Rings about a point near the centre."""
    dx, dy = x - 0.2 * (phase - 0.5), y - 0.2 * (second - 0.5)
    return step(wave(np.sqrt(dx * dx + dy * dy) * (2.2 + 0.7 * frequency) + 0.5 * phase), 4.0)


TEXTURES: Mapping[str, Texture] = {
    "fish": scales,
    "house": bricks,
    "starfish": dots,
    "leaf": veins,
    "moon": craters,
    "gear": checks,
    "flower": petals,
    "bow": stripes,
    "crate": planks,
    "target": rings,
}
"""Pattern of every class."""
