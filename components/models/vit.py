"""Vision transformer that takes crops of several sizes in one forward."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple, Self, cast, overload

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from components.models.attention import Shape
from components.models.block import NORM_EPS, Block, Wanted, split_sizes
from components.models.drop_path import DropPathRng, draw_kept
from components.models.embedding import Interpolation, TokenEmbedding
from components.models.layers import Mlp, SwiGlu, swiglu_hidden
from components.parameters import Params


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

    @property
    def ffn_hidden(self) -> int:
        """Hidden size of the feed-forward layer."""
        hidden = int(self.width * self.ffn_ratio)
        return hidden if self.ffn == "mlp" else swiglu_hidden(hidden)

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


class Readout(NamedTuple):
    """Class tokens of a batch and some of its patch tokens, after the final norm."""

    cls: Float[Tensor, "batch width"]
    patches: Float[Tensor, "rows width"]


def _block(config: ViTConfig) -> Block:
    width, hidden = config.width, config.ffn_hidden
    ffn = Mlp(width, hidden) if config.ffn == "mlp" else SwiGlu(width, hidden)
    return Block(width, config.heads, ffn, config.layer_scale)


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
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=NORM_EPS)
        self.recompute = False
        """Whether a block keeps only its input for the backward pass, which computes the rest again."""

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
            packed = self._run(block, packed, shapes, kept, None)
        tokens = self._unpack(self.norm(packed), shapes)
        return tokens[0] if isinstance(images, Tensor) else tokens

    def read_out(
        self,
        images: list[Tensor],
        patches: list[Tensor | None],
        *,
        masks: list[Tensor | None] | None = None,
        rng: DropPathRng | None = None,
    ) -> list[Readout]:
        """Class tokens and chosen patch tokens: what `forward` gives for them, at less cost in the last block.

        Args:
            images: batches of different sizes.
            patches: for each batch, Long[rows], positions in its flattened [crops x patches]; None: no patch.
            masks: as in `forward`.
            rng: as in `forward`.

        Returns:
            For each batch, its class tokens and the patch tokens in the order asked for.
        """
        packed, shapes = self._embed(images, masks)
        wanted, counts = self._wanted(shapes, patches, packed.device)
        kept = self._kept(rng, shapes, packed.device)
        for number, block in enumerate(self.blocks):
            last = number == len(self.blocks) - 1
            packed = self._run(block, packed, shapes, kept[number], wanted if last else None)
        parts = torch.split(self.norm(packed), counts)
        return [Readout(cls, rows) for cls, rows in zip(parts[::2], parts[1::2], strict=True)]

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

    def _run(
        self,
        block: nn.Module,
        packed: Tensor,
        shapes: Sequence[Shape],
        kept: Sequence[Tensor] | None,
        wanted: Wanted | None,
    ) -> Tensor:
        """One block; nothing in it is drawn, so that computing it again gives the same."""
        call = partial(block, shapes=shapes, kept=kept, wanted=wanted)
        if self.recompute and torch.is_grad_enabled() and packed.requires_grad:
            return cast(Tensor, checkpoint(call, packed, use_reentrant=False, preserve_rng_state=False))
        return cast(Tensor, call(packed))

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

    def _wanted(
        self, shapes: list[Shape], patches: list[Tensor | None], device: torch.device
    ) -> tuple[Wanted, list[int]]:
        """Rows and crops of what is read out, and how many class and patch tokens of each size."""
        first = 1 + self.config.registers
        rows, crops, counts = [], [], []
        row_start = crop_start = 0
        for (batch, tokens), chosen in zip(shapes, patches, strict=True):
            every = torch.arange(batch, device=device)
            chosen = every[:0] if chosen is None else chosen
            crop = chosen // (tokens - first)
            rows += [row_start + every * tokens, row_start + crop * tokens + first + chosen % (tokens - first)]
            crops += [crop_start + every, crop_start + crop]
            counts += [batch, len(chosen)]
            row_start, crop_start = row_start + batch * tokens, crop_start + batch
        return Wanted(torch.cat(rows), torch.cat(crops)), counts

    def _unpack(self, packed: Tensor, shapes: list[Shape]) -> list[Tokens]:
        first = 1 + self.config.registers
        tokens = []
        for (batch, count), part in zip(shapes, split_sizes(packed, shapes), strict=True):
            rows = part.view(batch, count, -1)
            tokens.append(Tokens(cls=rows[:, 0], registers=rows[:, 1:first], patches=rows[:, first:]))
        return tokens
