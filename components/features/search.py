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


def neighbour_pairs(vectors: Float[Tensor, "n dim"], k: int) -> Int[Tensor, "pairs 2"]:
    """Return every pair (i < j) of which one is among the k nearest others of the other, sorted, each once."""
    _, near = top_k(vectors, vectors, k + 1)
    own = torch.arange(len(vectors), device=vectors.device)[:, None].expand_as(near)
    pairs = torch.stack([torch.minimum(own, near), torch.maximum(own, near)], dim=-1).reshape(-1, 2)
    distinct: Int[Tensor, "pairs 2"] = torch.unique(pairs[pairs[:, 0] != pairs[:, 1]], dim=0)
    return distinct


def pairs_above(
    base: Float[Tensor, "n dim"], threshold: float, queries: Float[Tensor, "q dim"] | None = None
) -> tuple[Int[Tensor, "pairs 2"], Float[Tensor, " pairs"]]:
    """Find all pairs whose similarity reaches a threshold.

    Args:
        base: vectors.
        threshold: least similarity.
        queries: vectors on the other side; None: pairs within `base`, each once, first position below the second.

    Returns:
        Positions (query, base), sorted, and similarities. Memory grows with the number of pairs found.
    """
    within = queries is None
    left = base if queries is None else queries
    pairs: list[Tensor] = []
    values: list[Tensor] = []
    for first in range(0, len(left), QUERY_BLOCK):
        for start in range(first // BASE_BLOCK * BASE_BLOCK if within else 0, len(base), BASE_BLOCK):
            block = left[first : first + QUERY_BLOCK] @ base[start : start + BASE_BLOCK].T
            found = (block >= threshold).nonzero()
            origin = torch.tensor([first, start], device=base.device)
            if within:
                found = found[found[:, 0] + first < found[:, 1] + start]
            pairs.append(found + origin)
            values.append(block[found[:, 0], found[:, 1]])
    if not pairs:
        return torch.zeros((0, 2), dtype=torch.int64, device=base.device), base.new_zeros(0)
    both = torch.cat(pairs)
    order = torch.argsort(both[:, 0] * len(base) + both[:, 1])
    return both[order], torch.cat(values)[order]
