"""Gradient norms and clipping, for each module apart or for all together, on shards."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from components.parameters import Params


class ClipParams(Params):
    """How gradients are bounded."""

    max_norm: float | None = Field(default=3.0, gt=0, description="largest L2 norm of a gradient; null: no clipping")
    scope: Literal["module", "global"] = Field(
        default="module", description="the norm is that of backbone, DINO head, iBOT head each, or of all together"
    )


class GradientNorms:
    """Norms of gradients by module, and their clipping.

    Args:
        names: of the parameters, `BRANCH.MODULE.…`, in the order in which gradients are given.
        params: the bound.
    """

    def __init__(self, names: Sequence[str], params: ClipParams) -> None:
        self._params = params
        modules = [name.split(".")[1] for name in names]
        self.modules = list(dict.fromkeys(modules))
        self._members = [[i for i, one in enumerate(modules) if one == module] for module in self.modules]

    def squares(self, gradients: Sequence[Float[Tensor, " piece"]]) -> Float[Tensor, " modules"]:
        """Sum of squares of this process's shards for each of `modules`, fp64; add them up over processes."""
        return torch.stack([_sum_of_squares([gradients[i] for i in members]) for members in self._members])

    def clip(self, gradients: Sequence[Float[Tensor, " piece"]], norms: Float[Tensor, " modules"]) -> None:
        """Scales gradients in place so that no norm is above the bound.

        Args:
            gradients: this process's shards.
            norms: of the whole gradients, for each of `modules`, finite.
        """
        bound = self._params.max_norm
        if bound is None:
            return
        if self._params.scope == "global":
            norms = norms.norm().expand_as(norms)
        for members, norm in zip(self._members, norms.tolist(), strict=True):
            if norm > bound:
                torch._foreach_mul_([gradients[i] for i in members], bound / (norm + 1e-6))


def _sum_of_squares(tensors: list[Tensor]) -> Float[Tensor, ""]:
    return torch.stack(torch._foreach_norm(tensors)).double().square().sum()
