"""Backgrounds, drawn alike for all classes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from components.data.scenes.draws import colour, pick, stream, uniform
from components.data.scenes.textures import step, wave

Field = Float[NDArray[np.float64], "height width"]
LATTICE = 9


@dataclass(frozen=True)
class Background:
    """A wall or floor behind the objects."""

    name: str
    family: str
    colours: Float[NDArray[np.float64], "3 3"]
    axis: tuple[float, float]
    """Unit vector of the pattern's direction."""
    frequency: float
    lattice: Float[NDArray[np.float64], "grid grid"]
    """Random numbers in [0, 1) that patterns take their irregularity from."""
    far: float
    """Depth at the centre; objects stand nearer."""
    tilt: tuple[float, float]
    """Change of depth per half-side to the right and downwards."""


def draw_background(seed: int, number: int, part: int) -> Background:
    """Draw the background of scene `number`."""
    rng = stream(seed, "background", number, part)
    angle = uniform(rng, 0.0, 2.0 * np.pi)
    base, contrast = uniform(rng, 0.25, 0.75), uniform(rng, 0.03, 0.09)
    chroma = uniform(rng, 0.03, 0.15)
    return Background(
        name=f"{'te'[part]}{number:07d}",
        family=pick(rng, tuple(FAMILIES)),
        colours=np.stack([colour(rng, base + contrast * k, chroma) for k in (-1.0, 1.0, 0.0)]),
        axis=(float(np.cos(angle)), float(np.sin(angle))),
        frequency=uniform(rng, 0.0, 1.0),
        lattice=rng.random((LATTICE, LATTICE)),
        far=uniform(rng, 20.0, 26.0),
        tilt=(uniform(rng, -1.5, 1.5), uniform(rng, -3.0, 0.0)),
    )


def interpolate(lattice: Float[NDArray[np.float64], "grid grid"], x: Field, y: Field) -> Field:
    """Smooth noise: the lattice over [-1, 1]² interpolated along rows and columns.

    Args:
        lattice: values at the nodes.
        x: abscissas of the columns, shape [1, width].
        y: ordinates of the rows, shape [height, 1].
    """
    return _weights(y[:, 0], len(lattice)) @ lattice @ _weights(x[0], len(lattice)).T


def _weights(t: Float[NDArray[np.float64], " n"], nodes: int) -> Float[NDArray[np.float64], "n nodes"]:
    distance = np.abs((t[:, None] + 1.0) * (0.5 * (nodes - 1)) - np.arange(nodes))
    near = np.clip(1.0 - distance, 0.0, 1.0)
    weights: Float[NDArray[np.float64], "n nodes"] = near * near * (3.0 - 2.0 * near)
    return weights


def gradient(scene: Background, x: Field, y: Field) -> Field:
    """Plain, from one side to the other."""
    return np.clip(0.5 + 0.5 * (scene.axis[0] * x + scene.axis[1] * y), 0.0, 1.0)


def noise(scene: Background, x: Field, y: Field) -> Field:
    """Clouds of two octaves."""
    grid = LATTICE if scene.frequency > 0.5 else 5
    return np.clip(1.6 * interpolate(scene.lattice[:grid, :grid], x, y) - 0.3, 0.0, 1.0)


def bands(scene: Background, x: Field, y: Field) -> Field:
    """Stripes in any direction."""
    along = scene.axis[0] * x + scene.axis[1] * y
    return step(wave(along * (1.5 + 2.5 * scene.frequency) + float(scene.lattice[0, 0])), 3.0)


def tiles(scene: Background, x: Field, y: Field) -> Field:
    """Square tiles, each of its own shade."""
    n = 1.2 + 2.0 * scene.frequency
    u = (scene.axis[0] * x + scene.axis[1] * y) * n + float(scene.lattice[0, 0])
    v = (scene.axis[0] * y - scene.axis[1] * x) * n + float(scene.lattice[0, 1])
    column, row = np.floor(u).astype(np.int64) % LATTICE, np.floor(v).astype(np.int64) % LATTICE
    return scene.lattice[row, column]


def blobs(scene: Background, x: Field, y: Field) -> Field:
    """Soft round spots."""
    spots = scene.lattice[:, :3]
    total = np.zeros(np.broadcast_shapes(x.shape, y.shape))
    for u, v, size in spots[: 5 + int(scene.frequency * 4)]:
        radius = 0.15 + 0.25 * float(size)
        total += np.clip(1.0 - ((x - 2.2 * u + 1.1) ** 2 + (y - 2.2 * v + 1.1) ** 2) / (radius * radius), 0.0, 1.0)
    return np.clip(1.5 * total, 0.0, 1.0)


FAMILIES: Mapping[str, Callable[[Background, Field, Field], Field]] = {
    "gradient": gradient,
    "noise": noise,
    "stripes": bands,
    "tiles": tiles,
    "blobs": blobs,
}
"""Patterns of backgrounds: how far each point lies from the first towards the second colour."""


def paint(scene: Background, x: Field, y: Field) -> Float[NDArray[np.float64], "height width 3"]:
    """Return the background's colours in [0, 1] on a grid of rows y [height, 1] and columns x [1, width]."""
    weight = FAMILIES[scene.family](scene, x, y)
    across = np.clip(0.5 + 0.35 * (scene.axis[1] * x - scene.axis[0] * y), 0.0, 1.0) * 0.5
    first, second, third = scene.colours
    blend = first + weight[..., None] * (second - first)
    painted: Float[NDArray[np.float64], "height width 3"] = blend + across[..., None] * (third - blend)
    return painted


def depth(scene: Background, x: Field, y: Field) -> Field:
    """Return the background's depth, above 15, farther than any object."""
    return scene.far + scene.tilt[0] * x + scene.tilt[1] * y
