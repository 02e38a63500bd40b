"""Pictures that show what a backbone sees; the same features give the same bytes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from components.data.decoding import decode_stored
from components.data.reading import Reader
from components.features.images import centre_crop, prepare
from components.features.search import top_k
from components.models.backbone import Preprocess
from components.models.vit import VisionTransformer

TILE = 128
GAP = 6
COLUMNS = 8
NEIGHBOURS = 5
SAME, OTHER, UNKNOWN = (0, 150, 90), (210, 60, 50), (150, 150, 150)


@torch.inference_mode()
def patch_components(
    model: VisionTransformer, reader: Reader, ids: Sequence[str], preprocess: Preprocess, path: Path
) -> None:
    """Images, and below each the first three principal components of its patch features as red, green and blue.

    The components are those of all the images together, so that one colour means one thing (DINOv2, figure 1).

    Args:
        model: in evaluation mode, on the CPU.
        reader: gives the bytes of an image.
        ids: at most a few dozen images.
        preprocess: how they are prepared.
        path: PNG to write.
    """
    pictures = [centre_crop(decode_stored(reader.read, one), preprocess) for one in ids]
    images = torch.stack([prepare(decode_stored(reader.read, one), preprocess) for one in ids])
    patches = model(images).patches
    grid = round(patches.shape[1] ** 0.5)
    colours = _principal_colours(patches.flatten(0, 1)).view(len(ids), grid, grid, 3)
    maps = [Image.fromarray((one.numpy() * 255).round().astype(np.uint8)) for one in colours]
    rows: list[list[Image.Image]] = []
    for start in range(0, len(ids), COLUMNS):
        rows.append([_tile(one) for one in pictures[start : start + COLUMNS]])
        rows.append([_tile(one) for one in maps[start : start + COLUMNS]])
    _sheet(rows).save(path, "PNG")


def neighbour_gallery(
    queries: Float[Tensor, "queries dim"],
    query_ids: Sequence[str],
    query_labels: Sequence[str | None],
    base: Float[Tensor, "base dim"],
    base_ids: Sequence[str],
    base_labels: Sequence[str | None],
    reader: Reader,
    path: Path,
) -> None:
    """Each row a query and its five nearest neighbours; green frame: the same label, red: another, grey: unknown.

    Args:
        queries: features of a few queries.
        query_ids: their ids.
        query_labels: their labels, where known.
        base: features of the images that are searched.
        base_ids: their ids.
        base_labels: their labels, where known.
        reader: gives the bytes of an image.
        path: PNG to write.
    """
    _, nearest = top_k(F.normalize(queries, dim=-1), F.normalize(base, dim=-1), NEIGHBOURS)
    rows = []
    for row, query_id in enumerate(query_ids):
        tiles = [_tile(decode_stored(reader.read, query_id), (40, 40, 40))]
        for index in nearest[row].tolist():
            frame = _frame(query_labels[row], base_labels[index])
            tiles.append(_tile(decode_stored(reader.read, base_ids[index]), frame))
        rows.append(tiles)
    _sheet(rows).save(path, "PNG")


def _frame(query: str | None, neighbour: str | None) -> tuple[int, int, int]:
    if query is None or neighbour is None:
        return UNKNOWN
    return SAME if query == neighbour else OTHER


def _principal_colours(patches: Float[Tensor, "patches dim"]) -> Float[Tensor, "patches 3"]:
    """First three components, each scaled from its 2nd to its 98th percentile to 0..1, signs fixed."""
    centred = patches.double() - patches.double().mean(dim=0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    components = centred @ directions[:3].T
    components *= torch.where((components**3).sum(dim=0) < 0, -1.0, 1.0)  # a direction has no sign of its own
    low, high = components.quantile(0.02, dim=0), components.quantile(0.98, dim=0)
    colours: Tensor = ((components - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    return colours


def _tile(image: Image.Image, frame: tuple[int, int, int] | None = None) -> Image.Image:
    """The image on a square, small ones enlarged without smoothing."""
    inner = TILE - (2 * GAP if frame else 0)
    scale = inner / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    method = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BICUBIC
    tile = Image.new("RGB", (TILE, TILE), frame or (255, 255, 255))
    if frame:
        ImageDraw.Draw(tile).rectangle((GAP - 2, GAP - 2, TILE - GAP + 1, TILE - GAP + 1), fill=(255, 255, 255))
    tile.paste(image.resize(size, method), ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return tile


def _sheet(rows: Sequence[Sequence[Image.Image]]) -> Image.Image:
    columns = max(len(row) for row in rows)
    step = TILE + GAP
    sheet = Image.new("RGB", (columns * step + GAP, len(rows) * step + GAP), (255, 255, 255))
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            sheet.paste(tile, (GAP + x * step, GAP + y * step))
    return sheet
