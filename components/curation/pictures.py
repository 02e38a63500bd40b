"""Pictures of what curation threw away."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from components.data.decoding import decode_rgb
from components.features.images import Reader

TILE, GAP, COLUMNS, ROWS = 96, 4, 8, 12


def duplicate_groups(groups: Sequence[Sequence[str]], reader: Reader, path: Path) -> None:
    """One row a group: the image that is kept first, the others crossed out.

    Args:
        groups: ids, the kept one first; an empty first id: none is kept.
        reader: gives the bytes of an image.
        path: PNG to write.
    """
    shown = groups[:ROWS]
    step = TILE + GAP
    sheet = Image.new("RGB", (COLUMNS * step + GAP, max(len(shown), 1) * step + GAP), (255, 255, 255))
    for y, members in enumerate(shown):
        for x, one in enumerate(members[:COLUMNS]):
            tile = decode_rgb(reader.read(one)).resize((TILE, TILE), Image.Resampling.BICUBIC)
            if x:
                draw = ImageDraw.Draw(tile)
                draw.line((0, 0, TILE, TILE), fill=(220, 40, 40), width=2)
                draw.line((0, TILE, TILE, 0), fill=(220, 40, 40), width=2)
            sheet.paste(tile, (GAP + x * step, GAP + y * step))
    sheet.save(path, "PNG")
