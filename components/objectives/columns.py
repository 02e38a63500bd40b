"""The prototypes as columns of a matrix of logits that is never whole: a tile of rows, chunk after chunk of columns."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

CHUNK_ELEMENTS = 2**18
"""Logits of a chunk on a CPU, 1 MiB in fp32: what is done to them element by element then stays in the cache."""
LEAST_NORM = 1e-12
LEAST_TEMPERATURE = 0.025
"""Cosines lie in [-1, 1]: divided by this or more, their exponentials stay in the range of fp32 as they are."""


@dataclass(frozen=True)
class Columns:
    """Prototypes of any length; their cosines with rows of unit norm are scaled products.

    Attributes:
        weight: as the head stores it.
        inverse: one over the norm of each prototype, fp32.
    """

    weight: Float[Tensor, "prototypes dim"]
    inverse: Float[Tensor, " prototypes"]

    @classmethod
    def of(cls, weight: Float[Tensor, "prototypes dim"]) -> Self:
        """Columns of a head's weight, which is not copied."""
        norms = torch.linalg.vector_norm(weight, dim=-1, dtype=torch.float32)
        return cls(weight, norms.clamp_(min=LEAST_NORM).reciprocal_())

    def __len__(self) -> int:
        """Number of prototypes."""
        return len(self.weight)

    def chunks(self, rows: int) -> Iterator[slice]:
        """Columns whose logits for so many rows fit into a cache; all at once on a GPU."""
        count = len(self)
        width = count if self.weight.is_cuda else max(CHUNK_ELEMENTS // max(rows, 1), 1)
        return (slice(start, min(start + width, count)) for start in range(0, count, width))

    def logits(
        self, rows: Float[Tensor, "rows dim"], chunk: slice, scale: Float[Tensor, " prototypes"]
    ) -> Float[Tensor, "rows chunk"]:
        """Products of rows with the prototypes of a chunk, each column times its scale, fp32.

        Args:
            rows: of unit norm, in the precision of the weight.
            chunk: of the columns.
            scale: `inverse`, for cosines, or that over a temperature.
        """
        return (rows @ self.weight[chunk].mT).float().mul_(scale[chunk])
