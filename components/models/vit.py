"""Vision transformer that takes crops of several sizes in one forward."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, Self, overload

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from components.models.attention import Attention, Shape
from components.models.drop_path import DropPathRng, draw_kept
from components.models.embedding import Interpolation, TokenEmbedding
from components.models.layers import LayerScale, Mlp, SwiGlu, swiglu_hidden
from components.parameters import Params

NORM_EPS = 1e-6


class ViTConfig(Params):
    """Architecture of a vision transformer."""

    name: str = Field(default="custom", description="name shown to people")
    image_size: int = Field(gt=0, description="side of the images the position embedding is stored for, pixels")
    patch_size: int = Field(gt=0, description="side of a patch, pixels")
    channels: int = Field(default=3, ge=1, le=16, description="image channels")
    width: int = Field(gt=0, description="token dimension")
    depth: int = Field(gt=0, description="number of blocks")
    heads: int = Field(gt=0, description="attention heads")
    ffn: Literal["mlp", "swiglu"] = Field(default="mlp", description="feed-forward layer")
    ffn_ratio: float = Field(default=4.0, gt=0, description="hidden size of the feed-forward layer over the width")
    layer_scale: float | None = Field(default=1e-5, ge=0, description="initial LayerScale gain; null: no LayerScale")
    registers: int = Field(default=0, ge=0, description="register tokens")
    drop_path: float = Field(default=0.0, ge=0, lt=1, description="stochastic depth rate, the same in every block")
    interpolation: Interpolation = Field(default="antialias", description="position embedding at other image sizes")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} must divide image_size {self.image_size}")
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} must divide width {self.width}")
        return self


class Tokens(NamedTuple):
    """Output tokens of a batch, after the final norm."""

    cls: Float[Tensor, "batch width"]
    registers: Float[Tensor, "batch registers width"]
    patches: Float[Tensor, "batch patches width"]


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each a residual branch."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width = config.width
        hidden = int(width * config.ffn_ratio)
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = Attention(width, config.heads)
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPS)
        self.ffn = Mlp(width, hidden) if config.ffn == "mlp" else SwiGlu(width, swiglu_hidden(hidden))
        scaled = config.layer_scale is not None
        self.scale1 = LayerScale(width, config.layer_scale) if scaled else nn.Identity()  # type: ignore[arg-type]
        self.scale2 = LayerScale(width, config.layer_scale) if scaled else nn.Identity()  # type: ignore[arg-type]

    def forward(
        self, x: Float[Tensor, "rows width"], *, shapes: Sequence[Shape], kept: Sequence[Tensor] | None = None
    ) -> Float[Tensor, "rows width"]:
        """Run both branches.

        Args:
            x: tokens of all crops, crop after crop, size after size.
            shapes: (crops, tokens of a crop) of each size.
            kept: for each size, Long[2, kept]: the crops the branches run on; None: all.
        """
        if kept is None:
            x = x + self.scale1(self.attention(self.norm1(x), shapes=shapes))
            out: Tensor = x + self.scale2(self.ffn(self.norm2(x)))
            return out
        subset, fewer = _take(x, shapes, [rows[0] for rows in kept])
        x = _add(x, shapes, [rows[0] for rows in kept], self.scale1(self.attention(self.norm1(subset), shapes=fewer)))
        subset, _ = _take(x, shapes, [rows[1] for rows in kept])
        return _add(x, shapes, [rows[1] for rows in kept], self.scale2(self.ffn(self.norm2(subset))))


def _take(x: Tensor, shapes: Sequence[Shape], kept: Sequence[Tensor]) -> tuple[Tensor, list[Shape]]:
    """Tokens of the kept crops, and their shapes."""
    parts = [
        part.view(batch, -1).index_select(0, rows).view(-1, x.shape[-1])
        for part, (batch, _), rows in zip(_split(x, shapes), shapes, kept, strict=True)
    ]
    return torch.cat(parts), [(len(rows), tokens) for (_, tokens), rows in zip(shapes, kept, strict=True)]


def _add(x: Tensor, shapes: Sequence[Shape], kept: Sequence[Tensor], branch: Tensor) -> Tensor:
    """Add the branch to the kept crops, scaled by crops over kept crops."""
    branches = _split(branch, [(len(rows), tokens) for (_, tokens), rows in zip(shapes, kept, strict=True)])
    return torch.cat(
        [
            part.view(batch, -1)
            .index_add(0, rows, residual.view(len(rows), -1), alpha=batch / len(rows))
            .view(-1, x.shape[-1])
            for part, (batch, _), rows, residual in zip(_split(x, shapes), shapes, kept, branches, strict=True)
        ]
    )


def _split(x: Tensor, shapes: Sequence[Shape]) -> Sequence[Tensor]:
    return torch.split(x, [batch * tokens for batch, tokens in shapes])


class VisionTransformer(nn.Module):
    """Vision transformer with class token, optional registers, LayerScale and stochastic depth.

    Args:
        config: the architecture.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(
            image_size=config.image_size,
            patch_size=config.patch_size,
            channels=config.channels,
            width=config.width,
            registers=config.registers,
            interpolation=config.interpolation,
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)

    @overload
    def forward(
        self, images: Tensor, masks: list[Tensor | None] | None = None, *, rng: DropPathRng | None = None
    ) -> Tokens: ...

    @overload
    def forward(
        self, images: list[Tensor], masks: list[Tensor | None] | None = None, *, rng: DropPathRng | None = None
    ) -> list[Tokens]: ...

    def forward(
        self,
        images: Tensor | list[Tensor],
        masks: list[Tensor | None] | None = None,
        *,
        rng: DropPathRng | None = None,
    ) -> Tokens | list[Tokens]:
        """Embed one batch, or several of different sizes at once.

        Args:
            images: Float[batch, channels, height, width], sides a multiple of the patch; or a list of such.
            masks: for each batch, Bool[batch, patches] (True: replaced by the mask token) or None.
            rng: draws of stochastic depth; None: all branches run on all samples.

        Returns:
            Tokens after the final norm, for a list in its order.

        Raises:
            ValueError: when the patch does not divide an image side.
        """
        batches = [images] if isinstance(images, Tensor) else images
        packed, shapes = self._embed(batches, masks)
        for block, kept in zip(self.blocks, self._kept(rng, shapes, packed.device), strict=True):
            packed = block(packed, shapes=shapes, kept=kept)
        tokens = self._unpack(self.norm(packed), shapes)
        return tokens[0] if isinstance(images, Tensor) else tokens

    def intermediate(
        self, images: Float[Tensor, "batch channels height width"], n: int | Sequence[int]
    ) -> list[Tokens]:
        """Tokens after several blocks, each after the final norm.

        Args:
            images: one batch.
            n: how many last blocks, or the numbers of the blocks, counted from 0.

        Returns:
            Tokens of these blocks, shallow to deep.
        """
        depth = len(self.blocks)
        wanted = set(range(depth - n, depth)) if isinstance(n, int) else set(n)
        if not wanted or min(wanted) < 0 or max(wanted) >= depth:
            raise ValueError(f"blocks {n} asked of a backbone of {depth} blocks")
        packed, shapes = self._embed([images], None)
        found = []
        for number, block in enumerate(self.blocks):
            packed = block(packed, shapes=shapes)
            if number in wanted:
                found += self._unpack(self.norm(packed), shapes)
        return found

    def _embed(self, images: list[Tensor], masks: list[Tensor | None] | None) -> tuple[Tensor, list[Shape]]:
        tokens = self.embedding(images, masks if masks is not None else [None] * len(images))
        shapes = [(part.shape[0], part.shape[1]) for part in tokens]
        return torch.cat([part.flatten(0, 1) for part in tokens]), shapes

    def _kept(
        self, rng: DropPathRng | None, shapes: list[Shape], device: torch.device
    ) -> Sequence[Sequence[Tensor] | None]:
        """Kept samples of each block, for each size."""
        if rng is None or self.config.drop_path == 0:
            return [None] * len(self.blocks)
        rows = [batch for batch, _ in shapes]
        drawn = draw_kept(rng, rows, depth=len(self.blocks), rate=self.config.drop_path)
        on_device = [kind.to(device, non_blocking=True) for kind in drawn]
        return [[kind[number] for kind in on_device] for number in range(len(self.blocks))]

    def _unpack(self, packed: Tensor, shapes: list[Shape]) -> list[Tokens]:
        first = 1 + self.config.registers
        tokens = []
        for (batch, count), part in zip(shapes, _split(packed, shapes), strict=True):
            rows = part.view(batch, count, -1)
            tokens.append(Tokens(cls=rows[:, 0], registers=rows[:, 1:first], patches=rows[:, first:]))
        return tokens
