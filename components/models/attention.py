"""Self-attention over packed crops: linear layers run on all tokens at once, attention per crop size."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from components.models.layers import Linear

Shape = tuple[int, int]


def packed_attention(
    qkv: Float[Tensor, "rows 3*width"], shapes: Sequence[Shape], heads: int
) -> Float[Tensor, "rows width"]:
    """Scaled dot-product attention within each crop; the one place where the kernel is chosen per device.

    Args:
        qkv: queries, keys and values of all crops of all sizes, crop after crop.
        shapes: (crops, tokens of a crop) of each size, in the order of the rows.
        heads: attention heads.
    """
    if qkv.device.type == "cpu" and max(tokens for _, tokens in shapes) <= _plain_limit(qkv):
        apply: Callable[..., Tensor] = _PlainAttention.apply
        return apply(qkv, shapes, heads)
    parts = []
    for (batch, tokens), part in zip(shapes, _sections(qkv, shapes), strict=True):
        query, key, value = _per_head(part, batch, heads).unbind(0)
        attended = F.scaled_dot_product_attention(query, key, value)
        parts.append(attended.transpose(1, 2).reshape(batch * tokens, -1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _plain_limit(qkv: Tensor) -> int:
    """Tokens up to which, on a CPU, product, softmax and product are not slower than the flash kernel.

    Measured on one Zen 4 core, flash over plain, 17 to 577 tokens. In bfloat16: 7.3 to 1.5 in training, 2.0 to 1.2
    without gradients. In float32: 1.1 to 0.95 in training, 0.8 to 0.6 without gradients.
    """
    if qkv.dtype != torch.float32:
        return 1024
    return 128 if qkv.requires_grad and torch.is_grad_enabled() else 0


def _sections(x: Tensor, shapes: Sequence[Shape]) -> Sequence[Tensor]:
    return torch.split(x, [batch * tokens for batch, tokens in shapes])


def _per_head(qkv: Tensor, batch: int, heads: int) -> Float[Tensor, "3 batch heads tokens dim"]:
    return qkv.view(batch, qkv.shape[0] // batch, 3, heads, -1).permute(2, 0, 3, 1, 4)


class _PlainAttention(torch.autograd.Function):
    """Product, softmax, product, with a backward that writes the gradient of all crops into one tensor."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, shapes: Sequence[Shape], heads: int) -> Tensor:
        out = qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3)
        saved = []
        for (batch, tokens), section, target in zip(
            shapes, _sections(qkv, shapes), _sections(out, shapes), strict=True
        ):
            packed = _per_head(section, batch, heads).reshape(3, batch * heads, tokens, -1)
            query, key, value = packed
            scores = qkv.new_empty(batch * heads, tokens, tokens)
            torch.baddbmm(scores, query, key.mT, beta=0, alpha=query.shape[-1] ** -0.5, out=scores)
            weights = torch.softmax(scores, dim=-1, out=scores)
            attended = (weights @ value).view(batch, heads, tokens, -1)
            target.view(batch, tokens, heads, -1).copy_(attended.transpose(1, 2))
            saved += [packed, weights]
        ctx.save_for_backward(*saved)
        ctx.shapes, ctx.heads = shapes, heads
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        gradient = grads[0].new_empty(grads[0].shape[0], 3 * grads[0].shape[1])
        saved = iter(ctx.saved_tensors)
        for (batch, tokens), section, target in zip(
            ctx.shapes, _sections(grads[0], ctx.shapes), _sections(gradient, ctx.shapes), strict=True
        ):
            packed, weights = next(saved), next(saved)
            query, key, value = packed
            scale = query.shape[-1] ** -0.5
            outer = section.view(batch, tokens, ctx.heads, -1).transpose(1, 2).reshape(value.shape)
            inner = torch.ops.aten._softmax_backward_data(outer @ value.mT, weights, -1, weights.dtype)
            made = torch.empty_like(packed)
            torch.baddbmm(made[0], inner, key, beta=0, alpha=scale, out=made[0])
            torch.baddbmm(made[1], inner.mT, query, beta=0, alpha=scale, out=made[1])
            torch.bmm(weights.mT, outer, out=made[2])
            _per_head(target, batch, ctx.heads).copy_(made.view(3, batch, ctx.heads, tokens, -1))
        return gradient, None, None


class Attention(nn.Module):
    """Multi-head self-attention within each crop."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.projection = Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "rows width"],
        *,
        shapes: Sequence[Shape],
        wanted: Int[Tensor, " wanted"] | None = None,
    ) -> Tensor:
        """Attend within each crop.

        Args:
            x: tokens of all crops of all sizes, crop after crop.
            shapes: (crops, tokens of a crop) of each size, in the order of the rows.
            wanted: rows to return; None: all.

        Returns:
            Float[rows or wanted, width].
        """
        attended = packed_attention(self.qkv(x), shapes, self.heads)
        projected: Tensor = self.projection(attended if wanted is None else attended.index_select(0, wanted))
        return projected
