"""Random resized crops: antialiased bicubic resampling of a box, compiled for a CPU, as two matrix products on a GPU.

Both do what Pillow's `resize(size, BICUBIC, box=…)` does: Keys' kernel with a = -0.5, widened by the shrinking factor,
reading beyond the box up to the image's edge.
"""

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

CHUNK_BYTES = 256 << 20
"""Of images as floats, repeated for each of their crops, that are resampled at a time."""
_SUPPORT = 2.0


def resampled(
    images: Sequence[np.ndarray], boxes: np.ndarray, size: int, device: torch.device
) -> Float[Tensor, "crops 3 size size"]:
    """Crops of images of any size; no crop depends on the other images.

    Args:
        images: UInt8[height, width, 3] each.
        boxes: Float64[views * images, 4], view-major, left, top, width, height.
        size: side of the crops, pixels.
        device: where they are made.

    Returns:
        Values in 0..1, rows as `boxes`.
    """
    if device.type != "cpu":
        return multiplied(images, boxes, size, device)
    from components.data.crop_kernels import crop_image

    crops = torch.empty(len(boxes), 3, size, size)
    for row, image in enumerate(images):
        crop_image(np.ascontiguousarray(image), boxes, crops.numpy(), row, len(images))
    return crops


def multiplied(
    images: Sequence[np.ndarray], boxes: np.ndarray, size: int, device: torch.device
) -> Float[Tensor, "crops 3 size size"]:
    """The same as products of matrices, on any device, for all images of a size at once."""
    count, views = len(images), len(boxes) // len(images)
    crops = torch.empty(views * count, 3, size, size, device=device)
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for row, image in enumerate(images):
        by_shape.setdefault(image.shape, []).append(row)
    for shape, members in by_shape.items():
        room = max(1, CHUNK_BYTES // (4 * math.prod(shape)))
        for some, seen in product(_parts(members, room // views), _parts(range(views), room)):
            rows = (np.array(seen)[:, None] * count + np.array(some)[None]).reshape(-1)
            stacked = torch.from_numpy(np.stack([images[row] for row in some])).to(device)
            made = crop_with_matrices(stacked.permute(0, 3, 1, 2).float(), boxes[rows], size)
            crops[torch.from_numpy(rows).to(device)] = made
    return crops


def _parts(numbers: Sequence[int], most: int) -> list[Sequence[int]]:
    most = max(1, most)
    return [numbers[first : first + most] for first in range(0, len(numbers), most)]


def crop_with_matrices(
    images: Float[Tensor, "images 3 height width"], boxes: np.ndarray, size: int
) -> Float[Tensor, "crops 3 size size"]:
    """Crops of equally large images, all at once.

    Args:
        images: values in 0..255.
        boxes: Float64[views * images, 4], view-major: row `v * images + i` is of image `i`.
        size: side of the crops, pixels.

    Returns:
        Values in 0..1, rows as `boxes`.
    """
    count, _, height, width = images.shape
    device = images.device
    rows = torch.from_numpy(boxes).to(device, torch.float32)
    vertical = resampling_matrix(rows[:, 1], rows[:, 3], size, height)
    horizontal = resampling_matrix(rows[:, 0], rows[:, 2], size, width)
    views = len(boxes) // count
    stacked = images.reshape(count, 3 * height, width).repeat(views, 1, 1)
    # as Pillow: the width first, clipped to the range of a byte, then the height
    narrow = batched_product(stacked, horizontal.transpose(1, 2)).clamp_(0, 255)
    side_by_side = narrow.view(-1, 3, height, size).transpose(1, 2).reshape(-1, height, 3 * size)
    small = batched_product(vertical, side_by_side).view(-1, size, 3, size).transpose(1, 2)
    return small.clamp_(0, 255).div_(255).contiguous()


def batched_product(
    left: Float[Tensor, "batch rows inner"], right: Float[Tensor, "batch inner columns"]
) -> Float[Tensor, "batch rows columns"]:
    """Products of matrices, each with the same bits whatever the batch it is in.

    A batch of one would go to another kernel, with another order of summation.
    """
    if len(left) == 1:
        return torch.bmm(left.expand(2, -1, -1), right.expand(2, -1, -1))[:1]
    return torch.bmm(left, right)


def resampling_matrix(
    start: Float[Tensor, " crops"], length: Float[Tensor, " crops"], size: int, side: int
) -> Float[Tensor, "crops size side"]:
    """Weights of each pixel of a side in each pixel of a crop; rows sum to one.

    Args:
        start: first pixel of the box.
        length: pixels of the box.
        size: pixels of the crop.
        side: pixels of the image.
    """
    step = (length / size)[:, None, None]
    width = step.clamp(min=1.0)
    targets = torch.arange(size, device=start.device, dtype=torch.float32)[None, :, None] + 0.5
    pixels = torch.arange(side, device=start.device, dtype=torch.float32)[None, None, :] + 0.5
    distance = ((pixels - (start[:, None, None] + targets * step)) / width).abs_()
    inner = (1.5 * distance - 2.5) * distance * distance + 1
    outer = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, inner, outer).masked_fill_(distance >= _SUPPORT, 0.0)
    return weights / weights.sum(dim=-1, keepdim=True)
