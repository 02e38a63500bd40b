"""Exact nearest neighbours by cosine, in blocks."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK_ROWS = 1024


class Neighbours(NamedTuple):
    """The k nearest rows of each query, nearest first."""

    similarity: Float[Tensor, "queries k"]
    row: Int[Tensor, "queries k"]


def nearest(queries: Float[Tensor, "queries dim"], base: Float[Tensor, "rows dim"], k: int) -> Neighbours:
    """Exact search; memory is bounded by a block of queries times the base.

    Args:
        queries: rows of unit norm.
        base: rows of unit norm.
        k: neighbours a query; at most the rows of the base.
    """
    k = min(k, len(base))
    found = [(block @ base.T).topk(k, dim=1) for block in torch.split(queries, BLOCK_ROWS)]
    return Neighbours(torch.cat([one.values for one in found]), torch.cat([one.indices for one in found]))
