"""From teacher logits to probabilities that use all prototypes: softmax with a moving centre, or Sinkhorn-Knopp."""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn

CentringName = Literal["softmax", "sinkhorn"]


def sum_over_processes(value: Tensor) -> Tensor:
    """Sum of a tensor over the process group, in place; the tensor itself when there is none."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(value)
    return value


def sinkhorn(
    logits: Float[Tensor, "rows prototypes"], *, temperature: float, iterations: int = 3
) -> Float[Tensor, "rows prototypes"]:
    """Sinkhorn-Knopp over the rows of all processes (Caron et al. 2020, section 3.1), in float32.

    Only the scaling vector of the prototypes and of the rows changes from one iteration to the next. Processes may
    hold different numbers of rows, also none.

    Args:
        logits: cosines in [-1, 1].
        temperature: teacher temperature.
        iterations: alternations of prototype and row normalisation.

    Returns:
        Probabilities: each row sums to 1, and nearly the same mass falls on each prototype over all processes.
    """
    prototypes = logits.shape[1]
    # Cosines are at most 1: the shift keeps the exponential within range at low temperatures and cancels.
    kernel = ((logits.float() - 1.0) / temperature).exp_()
    rows = sum_over_processes(torch.tensor([float(len(logits))], device=logits.device))
    row_scale = torch.ones(len(logits), device=logits.device)
    for _ in range(iterations):
        prototype_scale = 1.0 / (sum_over_processes(row_scale @ kernel) * prototypes)
        row_scale = 1.0 / ((kernel @ prototype_scale) * rows)
    return kernel.mul_(prototype_scale).mul_((row_scale * rows)[:, None])


class SinkhornCentring(nn.Module):
    """Sinkhorn-Knopp; keeps no state."""

    def __init__(self, iterations: int = 3) -> None:
        super().__init__()
        self.iterations = iterations

    def forward(self, logits: Float[Tensor, "rows prototypes"], temperature: float) -> Float[Tensor, "rows prototypes"]:
        """Probabilities of the rows."""
        return sinkhorn(logits, temperature=temperature, iterations=self.iterations)

    def commit(self) -> None:
        """Nothing to apply."""

    def reject(self) -> None:
        """Nothing to forget."""


class SoftmaxCentring(nn.Module):
    """Softmax of logits minus a centre, the moving average of the mean logits (Caron et al. 2021, section 3.1).

    The centre of a step is the one left by the step before. What the step contributes waits until `commit`, so that a
    skipped step leaves no trace. The mean is over the rows of all processes and micro-batches.
    """

    centre: Tensor

    def __init__(self, prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("centre", torch.zeros(1, prototypes, dtype=torch.float32))
        self._pending: Tensor | None = None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Follow a move to a device, but stay in float32 when the model is cast to bfloat16."""
        exact = self.centre.float()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.centre = exact.to(self.centre.device)
        return self

    def forward(self, logits: Float[Tensor, "rows prototypes"], temperature: float) -> Float[Tensor, "rows prototypes"]:
        """Probabilities of the rows; notes their sum for the next centre."""
        logits = logits.float()
        self.note(logits.sum(dim=0), len(logits))
        return ((logits - self.centre) / temperature).softmax(dim=-1)

    def note(self, total: Float[Tensor, " prototypes"], rows: int) -> None:
        """Notes rows for the next centre.

        Args:
            total: sum of their logits, fp32.
            rows: how many there are.
        """
        contribution = torch.cat([total, torch.full((1,), float(rows), device=total.device)])
        self._pending = contribution if self._pending is None else self._pending + contribution

    def commit(self) -> None:
        """Move the centre; a collective: every process calls it."""
        if self._pending is None:
            return
        total = sum_over_processes(self._pending)
        mean, rows = total[:-1], total[-1]
        moved = self.centre.lerp(mean / rows.clamp(min=1.0), 1.0 - self.momentum)
        self.centre.copy_(torch.where(rows > 0, moved, self.centre))
        self._pending = None

    def reject(self) -> None:
        """Forget the rows of the step."""
        self._pending = None


def make_centring(
    name: CentringName, prototypes: int, *, momentum: float, iterations: int
) -> SinkhornCentring | SoftmaxCentring:
    """Centring by name."""
    return SinkhornCentring(iterations) if name == "sinkhorn" else SoftmaxCentring(prototypes, momentum)
