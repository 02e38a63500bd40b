"""Self-attention over packed crops: linear layers run on all tokens at once, attention per crop size."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from components.models.layers import Linear

Shape = tuple[int, int]


def attend(
    query: Float[Tensor, "batch heads tokens dim"],
    key: Float[Tensor, "batch heads tokens dim"],
    value: Float[Tensor, "batch heads tokens dim"],
) -> Float[Tensor, "batch heads tokens dim"]:
    """Scaled dot-product attention; the one place where the kernel is chosen per device.

    On a CPU in training a product, a softmax and a product are faster than the flash kernel at the lengths of crops
    (17 to 257 tokens: 1.1 to 3.5 times, see DESIGN.md); without gradients, and on a GPU, the flash kernel is.
    """
    if query.device.type == "cpu" and torch.is_grad_enabled():
        scores = (query * float(query.shape[-1]) ** -0.5) @ key.transpose(-2, -1)
        attended: Tensor = scores.softmax(dim=-1) @ value
        return attended
    return F.scaled_dot_product_attention(query, key, value)


class Attention(nn.Module):
    """Multi-head self-attention within each crop."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.projection = Linear(width, width)

    def forward(self, x: Float[Tensor, "rows width"], *, shapes: Sequence[Shape]) -> Float[Tensor, "rows width"]:
        """Attend within each crop.

        Args:
            x: tokens of all crops of all sizes, crop after crop.
            shapes: (crops, tokens of a crop) of each size, in the order of the rows.
        """
        width = x.shape[-1]
        parts = []
        for (batch, tokens), qkv in zip(shapes, self.qkv(x).split([b * n for b, n in shapes]), strict=True):
            per_head = qkv.view(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
            query, key, value = per_head.unbind(0)
            parts.append(attend(query, key, value).transpose(1, 2).reshape(batch * tokens, width))
        attended: Tensor = self.projection(parts[0] if len(parts) == 1 else torch.cat(parts))
        return attended
