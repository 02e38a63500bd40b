"""Exact search by inner product, in blocks: never all pairs in memory."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

QUERY_BLOCK = 2048
BASE_BLOCK = 8192
"""One block of similarities takes 64 MiB."""


def top_k(
    queries: Float[Tensor, "q dim"], base: Float[Tensor, "n dim"], k: int
) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Find the k nearest of `base` to every query.

    Args:
        queries: vectors; unit length makes the similarity the cosine.
        base: vectors to search, on the same device.
        k: how many; fewer are returned where `base` holds fewer.

    Returns:
        Similarities in falling order, and positions in `base`.
    """
    k = min(k, len(base))
    values = torch.full((len(queries), k), -torch.inf, device=queries.device, dtype=queries.dtype)
    positions = torch.zeros((len(queries), k), dtype=torch.int64, device=queries.device)
    for first in range(0, len(queries), QUERY_BLOCK):
        rows = slice(first, first + QUERY_BLOCK)
        for start in range(0, len(base), BASE_BLOCK):
            block = queries[rows] @ base[start : start + BASE_BLOCK].T
            near, where = block.topk(min(k, block.shape[1]), dim=1)
            merged = torch.cat([values[rows], near], dim=1)
            origins = torch.cat([positions[rows], where + start], dim=1)
            values[rows], kept = merged.topk(k, dim=1)
            positions[rows] = origins.gather(1, kept)
    return values, positions
