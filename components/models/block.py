"""Transformer block over packed crops, with efficient stochastic depth."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from components.models.attention import Attention, Shape
from components.models.layers import LayerScale, Mlp, SwiGlu

NORM_EPS = 1e-6


class Wanted(NamedTuple):
    """Tokens that are read out of the last block.

    Attributes:
        rows: their rows among all tokens.
        crops: the crop each belongs to, counted over all sizes.
    """

    rows: Int[Tensor, " wanted"]
    crops: Int[Tensor, " wanted"]


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each a residual branch.

    Args:
        width: token dimension.
        heads: attention heads.
        ffn: the feed-forward layer.
        layer_scale: initial LayerScale gain; None: no LayerScale.
    """

    def __init__(self, width: int, heads: int, ffn: Mlp | SwiGlu, layer_scale: float | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = Attention(width, heads)
        self.scale1 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.ffn = ffn
        self.scale2 = nn.Identity() if layer_scale is None else LayerScale(width, layer_scale)

    def forward(
        self,
        x: Float[Tensor, "rows width"],
        *,
        shapes: Sequence[Shape],
        kept: Sequence[Tensor] | None = None,
        wanted: Wanted | None = None,
    ) -> Tensor:
        """Run both branches.

        Args:
            x: tokens of all crops, crop after crop, size after size.
            shapes: (crops, tokens of a crop) of each size.
            kept: for each size, Long[2, kept]: the crops the branches run on; None: all.
            wanted: tokens to return; everything after attention runs on them alone. None: all.

        Returns:
            Float[rows or wanted, width].
        """
        if wanted is not None:
            return self._read_out(x, shapes, kept, wanted)
        if kept is None:
            x = x + self.scale1(self.attention(self.norm1(x), shapes=shapes))
            out: Tensor = x + self.scale2(self.ffn(self.norm2(x)))
            return out
        crops = [rows[0] for rows in kept]
        subset, fewer = _take(x, shapes, crops)
        x = _add(x, shapes, crops, self.scale1(self.attention(self.norm1(subset), shapes=fewer)))
        crops = [rows[1] for rows in kept]
        subset, _ = _take(x, shapes, crops)
        return _add(x, shapes, crops, self.scale2(self.ffn(self.norm2(subset))))

    def _read_out(self, x: Tensor, shapes: Sequence[Shape], kept: Sequence[Tensor] | None, wanted: Wanted) -> Tensor:
        """The same for few tokens: too few to be worth a subset, dropped branches are multiplied by 0."""
        branch = self.scale1(self.attention(self.norm1(x), shapes=shapes, wanted=wanted.rows))
        x = x.index_select(0, wanted.rows) + _dropped(branch, 0, shapes, kept, wanted)
        return x + _dropped(self.scale2(self.ffn(self.norm2(x))), 1, shapes, kept, wanted)


def _dropped(
    branch: Tensor, number: int, shapes: Sequence[Shape], kept: Sequence[Tensor] | None, wanted: Wanted
) -> Tensor:
    if kept is None:
        return branch
    factors = [
        branch.new_zeros(batch).index_fill_(0, rows[number], batch / rows.shape[1])
        for (batch, _), rows in zip(shapes, kept, strict=True)
    ]
    return branch * torch.cat(factors)[wanted.crops, None]


def split_sizes(x: Tensor, shapes: Sequence[Shape]) -> Sequence[Tensor]:
    """Packed tokens of each size."""
    return torch.split(x, [batch * tokens for batch, tokens in shapes])


def _take(x: Tensor, shapes: Sequence[Shape], kept: Sequence[Tensor]) -> tuple[Tensor, list[Shape]]:
    """Tokens of the kept crops, and their shapes."""
    parts = [
        part.view(batch, -1).index_select(0, rows).view(-1, x.shape[-1])
        for part, (batch, _), rows in zip(split_sizes(x, shapes), shapes, kept, strict=True)
    ]
    return torch.cat(parts), [(len(rows), tokens) for (_, tokens), rows in zip(shapes, kept, strict=True)]


def _add(x: Tensor, shapes: Sequence[Shape], kept: Sequence[Tensor], branch: Tensor) -> Tensor:
    """Add the branch to the kept crops, scaled by crops over kept crops."""
    branches = split_sizes(branch, [(len(rows), tokens) for (_, tokens), rows in zip(shapes, kept, strict=True)])
    return torch.cat(
        [
            part.view(batch, -1)
            .index_add(0, rows, residual.view(len(rows), -1), alpha=batch / len(rows))
            .view(-1, x.shape[-1])
            for part, (batch, _), rows, residual in zip(split_sizes(x, shapes), shapes, kept, branches, strict=True)
        ]
    )
