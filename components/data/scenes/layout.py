"""What a scene holds, before a pixel is made: instances, poses, background, light."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.random import Generator
from numpy.typing import NDArray

from components.data.scenes.backgrounds import Background, draw_background
from components.data.scenes.draws import colour, sign, stream, uniform
from components.data.scenes.spec import ScenesSpec

TRAIN, EVAL = 0, 1
"""Parts of a set, as numbers in streams."""

TWIN = 10_000
"""Instance `TWIN + n` is another individual with the colours of instance n."""


@dataclass(frozen=True)
class Instance:
    """One individual of a class; it looks the same wherever it appears."""

    category: str
    number: int
    colours: Float[NDArray[np.float64], "2 3"]
    frequency: float
    phase: float
    second_phase: float
    p: float
    q: float
    aspect: float
    size: float
    """Radius in the units of the depth map."""

    @property
    def name(self) -> str:
        """For example `fish-07`."""
        return f"{self.category}-{self.number:02d}"


@dataclass(frozen=True)
class Pose:
    """Where an object stands: x to the right and y down in [-1, 1], radius `scale` in half-sides, radians."""

    x: float
    y: float
    scale: float
    rotation: float
    mirrored: bool


@dataclass(frozen=True)
class Light:
    """One distant lamp and the camera's response to it."""

    direction: tuple[float, float]
    strength: float
    exposure: float
    tint: Float[NDArray[np.float64], " 3"]


@dataclass(frozen=True)
class Placed:
    """An instance in a pose."""

    instance: Instance
    pose: Pose


@dataclass(frozen=True)
class Layout:
    """A whole scene; `objects` from far to near, the main one last."""

    objects: tuple[Placed, ...]
    background: Background
    light: Light
    noise: tuple[int, int]
    """Number and part of the stream of the camera's noise."""

    @property
    def main(self) -> Placed:
        """The object that gives the picture its class."""
        return self.objects[-1]


def draw_instance(spec: ScenesSpec, category: str, number: int) -> Instance:
    """Draw individual `number` of a class; it does not depend on how many there are."""
    rng = stream(spec.seed, "instance", number, spec.categories.index(category))
    dark, light = uniform(rng, 0.10, 0.30), uniform(rng, 0.68, 0.92)
    first, second = (dark, light) if rng.random() < 0.5 else (light, dark)
    colours = np.stack([colour(rng, first, uniform(rng, 0.1, 0.35)), colour(rng, second, uniform(rng, 0.1, 0.35))])
    return Instance(
        category=category,
        number=number,
        colours=draw_instance(spec, category, number - TWIN).colours if number >= TWIN else colours,
        frequency=uniform(rng, 0.0, 1.0),
        phase=uniform(rng, 0.0, 1.0),
        second_phase=uniform(rng, 0.0, 1.0),
        p=uniform(rng, 0.0, 1.0),
        q=uniform(rng, 0.0, 1.0),
        aspect=uniform(rng, 0.86, 1.0) if rng.random() < 0.5 else uniform(rng, 1.0, 1.16),
        size=uniform(rng, 0.8, 1.2),
    )


def draw_pose(rng: Generator) -> Pose:
    """Draw a pose that keeps most of the object in the picture."""
    scale = uniform(rng, 0.6, 0.9)
    room = 1.33 - scale
    return Pose(
        x=uniform(rng, -room, room),
        y=uniform(rng, -room, room),
        scale=scale,
        rotation=uniform(rng, -0.9, 0.9),
        mirrored=rng.random() < 0.5,
    )


def draw_light(rng: Generator) -> Light:
    """Draw lamp, exposure and white balance."""
    angle = uniform(rng, 0.0, 2.0 * np.pi)
    return Light(
        direction=(float(np.cos(angle)), float(np.sin(angle))),
        strength=uniform(rng, 0.12, 0.35),
        exposure=uniform(rng, 0.78, 1.12),
        tint=1.0 + 0.08 * (2.0 * rng.random(3) - 1.0),
    )


def draw_layout(spec: ScenesSpec, number: int, part: int, category: str, instance: int) -> Layout:
    """Draw a scene with a given main instance.

    Args:
        spec: the set.
        number: number of the scene within its part.
        part: `TRAIN` or `EVAL`.
        category: class of the main object.
        instance: number of the main instance.
    """
    rng = stream(spec.seed, "scene", number, part)
    main = Placed(draw_instance(spec, category, instance), draw_pose(rng))
    light = draw_light(rng)
    objects: tuple[Placed, ...] = (main,)
    other = int(rng.random() * spec.instances)
    companion = _companion_pose(rng, main.pose)
    if rng.random() < 0.25:
        objects = (Placed(draw_instance(spec, category, other), companion), main)
    return Layout(objects, draw_background(spec.seed, number, part), light, (number, part))


def _companion_pose(rng: Generator, main: Pose) -> Pose:
    """Draw the pose of a smaller object on the side where there is room."""
    side = (-1.0 if main.x > 0 else 1.0, -1.0 if main.y > 0 else 1.0)
    if rng.random() < 0.3:
        side = (side[0], -side[1])
    return Pose(
        x=side[0] * uniform(rng, 0.55, 0.8),
        y=side[1] * uniform(rng, 0.55, 0.8),
        scale=uniform(rng, 0.26, 0.36),
        rotation=uniform(rng, -0.9, 0.9),
        mirrored=sign(rng) < 0,
    )


def changed(layout: Layout, **main: Any) -> Layout:
    """Return the scene with fields of the main object's pose replaced."""
    pose = replace(layout.main.pose, **main)
    return replace(layout, objects=(*layout.objects[:-1], Placed(layout.main.instance, pose)))
