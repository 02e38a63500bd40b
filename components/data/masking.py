"""Block-wise masks for the global crops of a whole global batch (BEiT's blocks with DINOv2's stratified ratios)."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool
from pydantic import Field, model_validator
from torch import Tensor

from components.parameters import Params

MIN_BLOCK_PATCHES = 4
MAX_BLOCK_SHARE = 0.5
ASPECT = (0.3, 1 / 0.3)
TRIES = 10
_STREAM = 2


class MaskParams(Params):
    """Which share of the global crops is masked, and how much of each."""

    probability: float = Field(default=0.5, ge=0, le=1, description="share of the global crops that are masked")
    ratio_min: float = Field(default=0.1, ge=0, le=1, description="least share of masked patches in a masked crop")
    ratio_max: float = Field(default=0.5, ge=0, le=1, description="largest share of masked patches in a masked crop")

    @model_validator(mode="after")
    def _check(self) -> "MaskParams":
        if self.ratio_min > self.ratio_max:
            raise ValueError(f"ratio_min {self.ratio_min} must not be above ratio_max {self.ratio_max}")
        return self


def draw_masks(
    params: MaskParams, *, seed: int, step: int, crops: int, grid: int, rows: Sequence[int] | None = None
) -> Bool[Tensor, "rows patches"]:
    """Masks of the global crops of a step, or of some of them.

    The ratios of the masked crops are drawn one from each of as many equal strata of [ratio_min, ratio_max], and the
    strata are dealt to the crops at random (official code, `collate_data_and_cast`). Each crop has draws of its own, so
    that a part costs what its crops cost.

    Args:
        params: shares and ratios.
        seed: seed of the run.
        step: optimizer step.
        crops: global crops of the global batch, two an image.
        grid: patches along a side of a global crop.
        rows: which crops; None: all.

    Returns:
        Bool[rows, grid * grid]; True: masked.
    """
    strata = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, _STREAM, step]))).permutation(crops)
    masked = int(crops * params.probability)
    edges = np.linspace(params.ratio_min, params.ratio_max, masked + 1)
    wanted = range(crops) if rows is None else rows
    masks = np.zeros((len(wanted), grid, grid), dtype=bool)
    for mask, row in zip(masks, wanted, strict=True):
        stratum = strata[row]
        if stratum < masked:
            rng = _rng(seed, step, row)
            _fill(mask, int(grid * grid * rng.uniform(edges[stratum], edges[stratum + 1])), rng)
    return torch.from_numpy(masks.reshape(len(wanted), grid * grid))


def _rng(seed: int, step: int, row: int) -> np.random.Generator:
    """Draws of one crop: Philox takes its key as it is, as in `draw_views`."""
    key = step ^ (seed * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    return np.random.Generator(np.random.Philox(key=key | (row * 8 + _STREAM) << 64))


def _fill(mask: np.ndarray, target: int, rng: np.random.Generator) -> None:
    """Adds blocks until `target` patches are masked, or no block fits any more."""
    count = 0
    limit = mask.size * MAX_BLOCK_SHARE
    while count < target:
        added = _add_block(mask, min(target - count, limit), rng)
        if added == 0:
            return
        count += added


def _add_block(mask: np.ndarray, most: float, rng: np.random.Generator) -> int:
    height, width = mask.shape
    low, high = math.log(ASPECT[0]), math.log(ASPECT[1])
    draws = rng.random((TRIES, 4))
    for area_draw, aspect_draw, top_draw, left_draw in draws:
        area = MIN_BLOCK_PATCHES + area_draw * (max(most, MIN_BLOCK_PATCHES) - MIN_BLOCK_PATCHES)
        aspect = math.exp(low + aspect_draw * (high - low))
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (0 < rows < height and 0 < columns < width):
            continue
        top = int(top_draw * (height - rows + 1))
        left = int(left_draw * (width - columns + 1))
        block = mask[top : top + rows, left : left + columns]
        new = rows * columns - int(block.sum())
        if 0 < new <= most:
            block[:] = True
            return new
    return 0
