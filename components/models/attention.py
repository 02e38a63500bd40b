"""Self-attention over packed crops: linear layers run on all tokens at once, attention per crop size."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from components.errors import UserError
from components.models.layers import Linear

Shape = tuple[int, int]
Kernel = Literal["plain", "flash", "efficient"]
_BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
_required: set[tuple[torch.dtype, int]] = set()
"""Precision and width of the heads for which `require_kernel` has found the kernel, with and without gradients."""


def packed_attention(
    qkv: Float[Tensor, "rows 3*width"], shapes: Sequence[Shape], heads: int
) -> Float[Tensor, "rows width"]:
    """Scaled dot-product attention within each crop; the one place where the kernel is chosen per device.

    Args:
        qkv: queries, keys and values of all crops of all sizes, crop after crop.
        shapes: (crops, tokens of a crop) of each size, in the order of the rows.
        heads: attention heads.
    """
    longest = max(tokens for _, tokens in shapes)
    training = qkv.requires_grad and torch.is_grad_enabled()
    kernel = attention_kernel(qkv.device.type, qkv.dtype, longest, training=training)
    if kernel == "plain":
        apply: Callable[..., Tensor] = _PlainAttention.apply
        return apply(qkv, shapes, heads)
    # on a CPU there is one fused kernel; on a GPU the one that was asked for runs, or nothing does
    wanted = qkv.is_cuda and (qkv.dtype, qkv.shape[1] // (3 * heads)) in _required
    required = sdpa_kernel(_BACKENDS[kernel]) if wanted else nullcontext()
    parts = []
    with required:
        for (batch, tokens), part in zip(shapes, _sections(qkv, shapes), strict=True):
            query, key, value = _per_head(part, batch, heads).unbind(0)
            attended = F.scaled_dot_product_attention(query, key, value)
            parts.append(attended.transpose(1, 2).reshape(batch * tokens, -1))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def attention_kernel(device: str, dtype: torch.dtype, tokens: int, *, training: bool) -> Kernel:
    """The kernel for crops of at most so many tokens.

    On a GPU a fused one: flash, which knows 16 bits only, or the memory-efficient one in fp32. On a CPU the
    plain one up to the length at which flash is not slower, measured on one Zen 4 core, flash over plain, 17 to 577
    tokens. In bfloat16: 7.3 to 1.5 in training, 2.0 to 1.2 without gradients. In float32: 1.1 to 0.95 in training, 0.8
    to 0.6 without gradients.

    Args:
        device: `cpu` or `cuda`.
        dtype: of queries, keys and values.
        tokens: of the largest crop.
        training: whether a gradient will be asked for.
    """
    if device != "cpu":
        return "efficient" if dtype == torch.float32 else "flash"
    limit = 1024 if dtype != torch.float32 else 128 if training else 0
    return "plain" if tokens <= limit else "flash"


def require_kernel(device: str, dtype: torch.dtype, *, head_width: int, tokens: Sequence[int]) -> str:
    """Checks that the kernels of training run on this device, and sees to it that no others do from then on.

    What computes without gradients (the teacher) is held to them, too.

    Args:
        device: `cpu`, `cuda` or `cuda:N`.
        dtype: of the activations.
        head_width: of one head.
        tokens: of a crop of each size, larger first.

    Returns:
        Which they are, in words, for the record of the run.

    Raises:
        UserError: when a GPU has no such kernel: any other takes a multiple of the time and memory, silently.
    """
    kind = torch.device(device).type
    kernel = attention_kernel(kind, dtype, max(tokens), training=True)
    if kind != "cpu":
        probe = torch.zeros(max(tokens), 3 * head_width, dtype=dtype, device=device, requires_grad=True)
        _required.add((dtype, head_width))
        try:
            torch.autograd.grad(packed_attention(probe, [(1, max(tokens))], 1).sum(), probe)
            packed_attention(probe.detach(), [(1, max(tokens))], 1)
        except RuntimeError as error:
            _required.discard((dtype, head_width))
            reason = str(error).splitlines()[0]
            raise UserError(
                f"this GPU has no {kernel} attention for heads of {head_width} in {dtype} ({reason})",
                remedy="take engine.precision bf16 and heads of at most 256, a multiple of 8, or train on a CPU",
            ) from None
    return f"{kernel} ({kind}, {str(dtype).removeprefix('torch.')}, {max(tokens)} tokens)"


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
        self.attend = packed_attention
        """Where a compiler has to stop, it is told so here."""
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
        attended = self.attend(self.qkv(x), shapes, self.heads)
        projected: Tensor = self.projection(attended if wanted is None else attended.index_select(0, wanted))
        return projected
