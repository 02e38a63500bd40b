"""From a layout to a picture with its truth."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray

from components.data.scenes import backgrounds
from components.data.scenes.draws import stream
from components.data.scenes.layout import Layout, Light, Placed
from components.data.scenes.shapes import SHAPES
from components.data.scenes.spec import CATEGORIES, ScenesSpec
from components.data.scenes.textures import TEXTURES

Field = Float[NDArray[np.float64], "height width"]
NOISE = 0.02
"""Standard deviation of the camera's noise; the full scale is 1."""
SHADOW = 0.45
"""Light that an object's shadow takes."""
RELIEF = 0.3
"""How far an object's middle bulges towards the camera, in its radii."""


@dataclass(frozen=True)
class Box:
    """The visible part of one object: pixels from (left, top) to before (right, bottom)."""

    category: str
    instance: str
    left: int
    top: int
    right: int
    bottom: int
    pixels: int
    """Number of its visible pixels."""


@dataclass(frozen=True)
class Scene:
    """A picture and what is true of it."""

    image: UInt8[NDArray[np.uint8], "size size 3"]
    mask: UInt8[NDArray[np.uint8], "size size"]
    """0 for background, else 1 + index of the class in `CATEGORIES`."""
    instance_mask: UInt8[NDArray[np.uint8], "size size"]
    """0 for background, else 1 + index in `boxes`."""
    depth: Float[NDArray[np.float64], "size size"]
    """Distance from the camera; an object of radius 1 fills the picture's half-side at distance 2."""
    boxes: tuple[Box, ...]
    layout: Layout


def render(layout: Layout, spec: ScenesSpec) -> Scene:
    """Render a scene; the cost grows with `spec.size` squared."""
    size = spec.size
    centres = (2.0 * np.arange(size) + 1.0) / size - 1.0
    x, y = centres[None, :], centres[:, None]
    image = backgrounds.paint(layout.background, x, y)
    depth = backgrounds.depth(layout.background, x, y)
    mask = np.zeros((size, size), np.uint8)
    instances = np.zeros((size, size), np.uint8)
    for number, placed in enumerate(layout.objects, start=1):
        rows, columns = _window(placed, size)
        u, v = x[:, columns], y[rows]
        _cast_shadow(image, placed, layout.light, x, y)
        cover, colours, distance = _paint_object(placed, layout.light, u, v, size)
        image[rows, columns] += cover[..., None] * (colours - image[rows, columns])
        inside = cover >= 0.5
        depth[rows, columns][inside] = distance[inside]
        mask[rows, columns][inside] = 1 + CATEGORIES.index(placed.instance.category)
        instances[rows, columns][inside] = number
    rng = stream(spec.seed, "noise", *layout.noise)
    grain = rng.random((size, size, 3))
    image = image * (layout.light.exposure * layout.light.tint) + (NOISE * 12.0**0.5) * (grain - 0.5)
    pixels = np.floor(np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return Scene(pixels, mask, instances, depth, _boxes(layout, instances), layout)


def _window(placed: Placed, size: int) -> tuple[slice, slice]:
    """Rows and columns that the object can touch."""
    pose = placed.pose
    reach = pose.scale * 1.25
    spans = []
    for centre in (pose.y, pose.x):
        first = int(np.floor((centre - reach + 1.0) * 0.5 * size))
        last = int(np.ceil((centre + reach + 1.0) * 0.5 * size))
        first = min(max(first, 0), size - 1)
        spans.append(slice(first, max(min(last, size), first + 1)))
    return spans[0], spans[1]


def object_coordinates(placed: Placed, x: Field, y: Field) -> tuple[Field, Field]:
    """Turn picture coordinates into the object's own."""
    pose, aspect = placed.pose, float(np.sqrt(placed.instance.aspect))
    cosine, sine = float(np.cos(pose.rotation)), float(np.sin(pose.rotation))
    dx, dy = (x - pose.x) / pose.scale, (y - pose.y) / pose.scale
    u, v = cosine * dx + sine * dy, cosine * dy - sine * dx
    return (-u if pose.mirrored else u) / aspect, v * aspect


def _outline(placed: Placed, x: Field, y: Field) -> Field:
    u, v = object_coordinates(placed, x, y)
    return SHAPES[placed.instance.category](u, v, placed.instance.p, placed.instance.q)


def _cast_shadow(image: Float[NDArray[np.float64], "h w 3"], placed: Placed, light: Light, x: Field, y: Field) -> None:
    reach = 0.12 * placed.pose.scale
    outline = _outline(placed, x - reach * light.direction[0], y - reach * light.direction[1])
    image *= 1.0 - SHADOW * np.clip(0.5 - outline * 6.0, 0.0, 1.0)[..., None]


def _paint_object(
    placed: Placed, light: Light, x: Field, y: Field, size: int
) -> tuple[Field, Float[NDArray[np.float64], "height width 3"], Field]:
    """Return coverage in [0, 1], colours and depth of an object."""
    thing, pose = placed.instance, placed.pose
    u, v = object_coordinates(placed, x, y)
    outline = SHAPES[thing.category](u, v, thing.p, thing.q)
    cover = np.clip(0.5 - outline * (pose.scale * 0.5 * size), 0.0, 1.0)
    weight = TEXTURES[thing.category](u, v, thing.frequency, thing.phase, thing.second_phase)
    colours = thing.colours[0] + weight[..., None] * (thing.colours[1] - thing.colours[0])
    dx, dy = (x - pose.x) / pose.scale, (y - pose.y) / pose.scale
    height = np.clip(1.0 - 0.8 * (dx * dx + dy * dy), 0.0, 1.0)
    rim = np.clip(1.0 + outline * 9.0, 0.0, 1.0)
    shade = 1.0 - light.strength * (dx * light.direction[0] + dy * light.direction[1]) - 0.35 * rim
    distance = 2.0 * thing.size / pose.scale - RELIEF * thing.size * height
    return cover, np.clip(colours * shade[..., None], 0.0, 1.0), distance


def _boxes(layout: Layout, instances: UInt8[NDArray[np.uint8], "size size"]) -> tuple[Box, ...]:
    boxes = []
    for number, placed in enumerate(layout.objects, start=1):
        rows, columns = np.nonzero(instances == number)
        extent = (0, 0, 0, 0)
        if len(rows):
            extent = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
        boxes.append(Box(placed.instance.category, placed.instance.name, *extent, pixels=len(rows)))
    return tuple(boxes)
