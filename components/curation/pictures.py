"""Pictures of what curation found."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa
from PIL import Image, ImageDraw

from components.data.decoding import decode_stored
from components.data.reading import Reader

T = TypeVar("T")
Cell = tuple[str, str, bool]
"""Id, caption, whether it is struck out."""
TILE, GAP, CAPTION = 96, 6, 14
COLUMNS, GROUPS = 10, 40
PAPER, INK, STRUCK = (255, 255, 255), (60, 60, 60), (220, 40, 40)


def duplicate_sheet(groups: pa.Table, reader: Reader, path: Path) -> bool:
    """Draw a sample of the groups of duplicates: of each the kept image first, then those that go, struck out.

    Args:
        groups: `id`, `component`, `kept`, `reason` of the training images.
        reader: gives the bytes of an image.
        path: PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    shown = [group[:COLUMNS] for group in spread(duplicate_groups(groups), GROUPS)]
    return _draw([[(one, "out" if gone else "kept", gone) for gone, one in group] for group in shown], reader, path)


def leak_sheet(pairs: pa.Table, evaluation: set[str], reader: Reader, path: Path) -> bool:
    """Draw a sample of the leaks: the evaluation image, and right of it the training image that shows the same.

    Args:
        pairs: accepted pairs, `first`, `second`, `agreement`.
        evaluation: ids of the evaluation part.
        reader: gives the bytes of an image.
        path: PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    found: list[list[Cell]] = [
        [(leak.evaluation, "evaluation", False), (leak.training, f"agreement {leak.agreement:.2f}", True)]
        for leak in leak_pairs(pairs, evaluation)
    ]
    return _draw(spread(found, GROUPS), reader, path)


def duplicate_groups(groups: pa.Table) -> list[list[tuple[bool, str]]]:
    """Return the groups of duplicates in the order of their names: of each image whether it goes, and its id.

    The kept image comes first.
    """
    members: dict[str, list[tuple[bool, str]]] = {}
    for row in groups.to_pylist():
        if row["reason"] in ("representative", "duplicate"):
            members.setdefault(row["component"], []).append((not row["kept"], row["id"]))
    return [sorted(ones) for _, ones in sorted(members.items())]


class Leak(NamedTuple):
    """An evaluation image and a training image that show the same."""

    evaluation: str
    training: str
    agreement: float


def leak_pairs(pairs: pa.Table, evaluation: set[str]) -> list[Leak]:
    """Return the pairs of which one image is of the evaluation part and the other is not, in their order."""
    found = []
    for row in pairs.to_pylist():
        first, second = row["first"], row["second"]
        if (first in evaluation) != (second in evaluation):
            held_out, training = (first, second) if first in evaluation else (second, first)
            found.append(Leak(held_out, training, row["agreement"]))
    return found


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return up to `count` items, evenly spread."""
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def _draw(groups: list[list[Cell]], reader: Reader, path: Path) -> bool:
    """Set groups side by side in lines of `COLUMNS` tiles; a group is never broken."""
    if not groups:
        return False
    places, x, y = [], 0, 0
    for group in groups:
        if x and x + len(group) > COLUMNS:
            x, y = 0, y + 1
        places.append((x, y))
        x += len(group)
    height = TILE + CAPTION + GAP
    sheet = Image.new("RGB", (COLUMNS * (TILE + GAP) + GAP, (y + 1) * height + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for (x, y), group in zip(places, groups, strict=True):
        for number, (one, caption, struck) in enumerate(group):
            left, top = GAP + (x + number) * (TILE + GAP), GAP + y * height
            sheet.paste(_tile(reader, one), (left, top))
            pen.text((left, top + TILE + 1), caption, fill=INK)
            if struck:
                pen.line((left, top + TILE - 1, left + TILE - 1, top), fill=STRUCK, width=2)
    sheet.save(path, "PNG")
    return True


def _tile(reader: Reader, one: str) -> Image.Image:
    """The image on a square, its shape kept."""
    image = decode_stored(reader.read, one, min_side=TILE)
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    square = Image.new("RGB", (TILE, TILE), PAPER)
    square.paste(image.resize(size, Image.Resampling.BICUBIC), ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return square
