"""Small layers of the vision transformer. Each uses its parameters only inside its own forward (ZeRO-3)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

INITIAL_STD = 0.02


class Linear(nn.Linear):
    """Linear layer with weights from a normal distribution of std 0.02, cut at ±2, and zero biases."""

    def reset_parameters(self) -> None:
        """Initialise in the constructor, where ZeRO-3 has not yet partitioned the weight."""
        nn.init.trunc_normal_(self.weight, std=INITIAL_STD)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class LayerScale(nn.Module):
    """Adds a residual branch, each channel scaled by a learnt gain (Touvron et al. 2021, section 2)."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, branch: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """Scale the branch."""
        return branch * self.gamma


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """Transform each row."""
        hidden: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return hidden


class SwiGlu(nn.Module):
    """Gated feed-forward: silu(x W1) * (x W2), then W3 (Shazeer 2020); W1 and W2 are one matrix."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w12 = Linear(width, 2 * hidden)
        self.w3 = Linear(hidden, width)

    def forward(self, x: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """Transform each row."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        hidden: Tensor = self.w3(F.silu(gate) * value)
        return hidden


def swiglu_hidden(hidden: int) -> int:
    """Hidden size of SwiGLU that costs what an MLP of `hidden` does: two thirds, rounded up to a multiple of 8."""
    return (int(hidden * 2 / 3) + 7) // 8 * 8
