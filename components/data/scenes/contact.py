"""The contact sheet of the documentation: `python -m components.data.scenes.contact docs/assets/scenes.png`."""

import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.data.scenes.actions import ACTIONS, clip_layouts, draw_action
from components.data.scenes.content import content
from components.data.scenes.draws import stream
from components.data.scenes.layout import TRAIN, draw_layout
from components.data.scenes.off_topic import draw_off_topic
from components.data.scenes.plan import NEGATIVE_KINDS, entries
from components.data.scenes.planting import TRANSFORMS, plant
from components.data.scenes.render import render
from components.data.scenes.spec import ScenesSpec

COLUMNS = 15
GAP = 4
Picture = Image.Image


def contact_sheet(spec: ScenesSpec) -> Picture:
    """Lay out, from above: classes, clips, truth, hard negatives beside their originals, copies, off-topic pictures."""
    rows = [*_classes(spec), *_clips(spec), _truth(spec), *_negatives(spec), _copies(spec), _off_topic(spec)]
    step = spec.size + GAP
    sheet = Image.new("RGB", (COLUMNS * step + GAP, len(rows) * step + GAP), (255, 255, 255))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row[:COLUMNS]):
            sheet.paste(picture, (x * step + GAP, y * step + GAP))
    return sheet


def _classes(spec: ScenesSpec) -> list[list[Picture]]:
    """Each row holds three classes, five pictures each."""
    pictures = []
    for k, category in enumerate(spec.categories):
        for number in range(5):
            shown = draw_layout(spec, 1000 * k + number, TRAIN, category, number % spec.instances)
            pictures.append(Image.fromarray(render(shown, spec).image))
    return [pictures[start : start + COLUMNS] for start in range(0, len(pictures), COLUMNS)]


def _clips(spec: ScenesSpec) -> list[list[Picture]]:
    """Each row holds two clips of seven frames."""
    strips: dict[str, list[Picture]] = {}
    for number in range(1000):
        action = draw_action(spec, number)[0]
        if action not in strips:
            scene = draw_layout(spec, number, TRAIN, spec.categories[len(strips) % spec.classes], 1)
            strips[action] = [_picture(render(one, spec).image) for one in clip_layouts(scene, spec, number, 7)]
        if len(strips) == len(ACTIONS):
            break
    clips = list(strips.values())
    return [[*one, *other] for one, other in zip(clips[::2], clips[1::2], strict=True)]


def _truth(spec: ScenesSpec) -> list[Picture]:
    """Pictures with class mask, instance mask and depth."""
    row: list[Picture] = []
    for number in (1, 9, 14):
        one = render(draw_layout(spec, number, TRAIN, spec.categories[number % spec.classes], 0), spec)
        maps = (one.mask * 25.0, one.instance_mask * 100.0, 255.0 - one.depth * 9.0)
        row += [_picture(one.image), *(_picture(values) for values in maps)]
    return row


def _negatives(spec: ScenesSpec) -> list[list[Picture]]:
    """Each row holds originals with a hard negative at their right."""
    planned = entries(spec, TRAIN)
    pictures = []
    for kind in NEGATIVE_KINDS:
        pairs = [(planned[one.original or 0], one) for one in planned if one.negative_kind == kind][:3]
        pictures += [Image.open(BytesIO(content(spec, one))).convert("RGB") for pair in pairs for one in pair]
    return [pictures[start : start + 14] for start in range(0, len(pictures), 14)]


def _copies(spec: ScenesSpec) -> list[Picture]:
    original = Image.fromarray(render(draw_layout(spec, 77, TRAIN, spec.categories[0], 3), spec).image)
    return [plant(original, stream(spec.seed, "plant", k), name)[0] for k, name in enumerate(TRANSFORMS)]


def _off_topic(spec: ScenesSpec) -> list[Picture]:
    return [draw_off_topic(stream(spec.seed, "plant", k), spec.size)[0] for k in range(COLUMNS)]


def _picture(values: NDArray[Any]) -> Picture:
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8)).convert("RGB")


def main(arguments: Sequence[str]) -> None:
    """Write the sheet of the default set to the path given."""
    sheet = contact_sheet(ScenesSpec()).quantize(256, method=Image.Quantize.FASTOCTREE)
    sheet.save(Path(arguments[0]), optimize=True)


if __name__ == "__main__":
    main(sys.argv[1:])
