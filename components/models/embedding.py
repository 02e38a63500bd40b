"""From images to tokens: patches, mask token, position embedding, registers."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from components.models.layers import INITIAL_STD, Linear

Interpolation = Literal["dinov2", "antialias", "size"]
LEGACY_OFFSET = 0.1
SMALL_STD = 1e-6


class TokenEmbedding(nn.Module):
    """Embeds images of any size that the patch divides.

    Interpolation of the position embedding, bicubic, is one of: `dinov2` (scale factor (side + 0.1) / trained side, no
    antialias: official models without registers), `antialias` (target size, antialias: official models with
    registers), `size` (target size, no antialias: Hugging Face `Dinov2`).

    Args:
        image_size: side of the images the position embedding is stored for, in pixels.
        patch_size: side of a patch, in pixels.
        channels: image channels.
        width: token dimension.
        registers: number of register tokens.
        interpolation: rule at other image sizes.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        channels: int,
        width: int,
        registers: int,
        interpolation: Interpolation,
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.side = image_size // patch_size
        self.interpolation: Interpolation = interpolation
        self.projection = Linear(channels * patch_size**2, width)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * SMALL_STD)
        self.position = nn.Parameter(torch.empty(1, 1 + self.side**2, width))
        nn.init.trunc_normal_(self.position, std=INITIAL_STD)
        self.mask_token = nn.Parameter(torch.zeros(1, width))
        self.registers = nn.Parameter(torch.randn(1, registers, width) * SMALL_STD) if registers else None
        self._resampling: dict[tuple[int, torch.device, torch.dtype], Tensor] = {}

    def forward(
        self, images: Sequence[Float[Tensor, "batch channels height width"]], masks: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """Embed images of several sizes.

        Args:
            images: one batch for each size.
            masks: for each, Bool[batch, patches], True where the mask token replaces the patch; or None.

        Returns:
            For each size, tokens [batch, 1 + registers + patches, width]: class token, registers, patches.
        """
        dtype = self.projection.weight.dtype
        patches = [self._patches(batch.to(dtype)) for batch in images]
        counts = [p.shape[0] * p.shape[1] for p in patches]
        embedded = self.projection(torch.cat([p.flatten(0, 1) for p in patches])).split(counts)
        cls_token: Tensor = self.cls_token
        mask_token: Tensor = self.mask_token
        if all(mask is None for mask in masks):
            # Every parameter takes part in every step: a gradient that is absent on one process aborts ZeRO-3.
            cls_token = cls_token + 0.0 * mask_token
        result = []
        for batch, mask, flat in zip(images, masks, embedded, strict=True):
            tokens = flat.view(batch.shape[0], -1, flat.shape[-1])
            if mask is not None:
                tokens = self._mask(tokens, mask, mask_token)
            grid = (batch.shape[-2] // self.patch_size, batch.shape[-1] // self.patch_size)
            tokens = tokens + self._positions(grid)
            rows = tokens.shape[0]
            parts = [(cls_token + self.position[:, :1]).expand(rows, -1, -1), tokens]
            if self.registers is not None:
                parts.insert(1, self.registers.expand(rows, -1, -1))
            result.append(torch.cat(parts, dim=1))
        return result

    def _patches(self, images: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch patches pixels"]:
        batch, channels, height, width = images.shape
        size = self.patch_size
        if height % size or width % size:
            raise ValueError(f"images of {height}x{width} pixels are not a multiple of the patch of {size}")
        blocks = images.view(batch, channels, height // size, size, width // size, size)
        return blocks.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * size * size)

    @staticmethod
    def _mask(
        tokens: Float[Tensor, "batch patches width"], mask: Bool[Tensor, "batch patches"], mask_token: Tensor
    ) -> Float[Tensor, "batch patches width"]:
        return torch.where(mask[..., None], mask_token, tokens)

    def _positions(self, grid: tuple[int, int]) -> Float[Tensor, "1 patches width"]:
        stored = self.position[:, 1:]
        if grid == (self.side, self.side):
            return stored
        plane = stored.view(self.side, self.side, -1)
        rows, columns = (self._resample(side, stored) for side in grid)
        return torch.einsum("ai,bj,ijd->abd", rows, columns, plane).flatten(0, 1)[None]

    def _resample(self, side: int, like: Tensor) -> Float[Tensor, "side stored"]:
        """Bicubic interpolation along one axis as a matrix: it is linear and separable, hence cached per size."""
        key = (side, like.device, like.dtype)
        if key not in self._resampling:
            self._resampling[key] = interpolation_matrix(self.side, side, self.interpolation).to(like)
        return self._resampling[key]


def interpolation_matrix(stored: int, side: int, rule: Interpolation) -> Float[Tensor, "side stored"]:
    """Bicubic interpolation of `stored` values to `side` along one axis.

    Args:
        stored: values there are.
        side: values wanted.
        rule: see `TokenEmbedding`.
    """
    identity = torch.eye(stored)[None, None]
    if rule == "dinov2":
        factor = ((side + LEGACY_OFFSET) / stored, 1.0)
        return F.interpolate(identity, scale_factor=factor, mode="bicubic")[0, 0]
    return F.interpolate(identity, size=(side, stored), mode="bicubic", antialias=rule == "antialias")[0, 0]
