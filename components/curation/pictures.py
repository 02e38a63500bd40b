"""Pictures of what curation found."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from PIL import Image, ImageDraw

from components.data.decoding import decode_rgb
from components.features.thumbnails import Reader

T = TypeVar("T")
TILE, GAP, CAPTION = 96, 6, 14
COLUMNS, ROWS = 8, 12
PAPER, INK, STRUCK = (255, 255, 255), (60, 60, 60), (220, 40, 40)


def duplicate_sheet(groups: pa.Table, reader: Reader, path: Path) -> bool:
    """Draw a sample of the groups of duplicates, one a row: the kept image first, then those that go, struck out.

    Args:
        groups: `id`, `component`, `kept`, `reason` of the training images.
        reader: gives the bytes of an image.
        path: PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    members: dict[str, list[tuple[bool, str]]] = {}
    for row in groups.to_pylist():
        if row["reason"] in ("representative", "duplicate"):
            members.setdefault(row["component"], []).append((not row["kept"], row["id"]))
    rows = [sorted(ones)[:COLUMNS] for _, ones in _spread(sorted(members.items()), ROWS)]
    cells = [[(one, "out" if gone else "kept", gone) for gone, one in row] for row in rows]
    return _draw(cells, reader, path)


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
    found = []
    for row in pairs.to_pylist():
        first, second = row["first"], row["second"]
        if (first in evaluation) != (second in evaluation):
            held_out, training = (first, second) if first in evaluation else (second, first)
            caption = f"agreement {row['agreement']:.2f}"
            found.append([(held_out, "evaluation", False), (training, caption, True)])
    found = _spread(found, ROWS * COLUMNS // 2)
    across = COLUMNS // 2
    starts = range(0, len(found), across)
    cells = [[cell for leak in found[first : first + across] for cell in leak] for first in starts]
    return _draw(cells, reader, path)


def _spread(items: Sequence[T], count: int) -> list[T]:
    """Up to `count` items, evenly spread."""
    if len(items) <= count:
        return list(items)
    return [items[index * len(items) // count] for index in range(count)]


def _draw(cells: list[list[tuple[str, str, bool]]], reader: Reader, path: Path) -> bool:
    if not cells:
        return False
    across, down = max(len(row) for row in cells), len(cells)
    height = TILE + CAPTION + GAP
    sheet = Image.new("RGB", (across * (TILE + GAP) + GAP, down * height + GAP), PAPER)
    pen = ImageDraw.Draw(sheet)
    for y, row in enumerate(cells):
        for x, (one, caption, struck) in enumerate(row):
            left, top = GAP + x * (TILE + GAP), GAP + y * height
            sheet.paste(_tile(reader, one), (left, top))
            pen.text((left, top + TILE + 1), caption, fill=INK)
            if struck:
                pen.line((left, top + TILE - 1, left + TILE - 1, top), fill=STRUCK, width=2)
    sheet.save(path, "PNG")
    return True


def _tile(reader: Reader, one: str) -> Image.Image:
    """The image on a square, its shape kept."""
    image = decode_rgb(reader.read(one), min_side=TILE)
    scale = TILE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    square = Image.new("RGB", (TILE, TILE), PAPER)
    square.paste(image.resize(size, Image.Resampling.BICUBIC), ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return square
