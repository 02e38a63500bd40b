"""All pairs of near vectors, exactly: half of the products, in blocks that stay in cache, never all pairs in memory."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.errors import UserError

BLOCK = 512
"""Side of a block of similarities: 1 MiB, which stays in the cache of one core."""
CUDA_BLOCK = 16_384
"""The same on a GPU: 1 GiB."""


class NearPairs(NamedTuple):
    """Pairs and how near they are."""

    pairs: Int[Tensor, "pairs 2"]
    """Positions, the lesser first, sorted."""
    similarity: Float[Tensor, " pairs"]


def near_pairs(
    vectors: Float[Tensor, "n dim"], threshold: float, *, most: int | None = None, threads: int | None = None
) -> NearPairs:
    """Find every pair (i < j) whose inner product is at least the threshold.

    Only blocks on and above the diagonal are computed. Of a block first the maximum of each row is taken, in one pass
    over what is in the cache; single products are looked at only in rows that reach the threshold. On a CPU each block
    is the work of one thread, so that threads never wait for each other and their number does not change a bit.

    Args:
        vectors: on any device; unit length makes the inner product the cosine.
        threshold: least inner product.
        most: pairs at most; None admits any number.
        threads: that search on a CPU; default: those of torch.

    Raises:
        UserError: if there are more pairs than `most`: the threshold is no threshold for such vectors.
    """
    found: list[NearPairs] = []
    count = 0
    with closing(_strips(vectors, threshold, threads or torch.get_num_threads())) as strips:
        for strip in strips:
            found.append(strip)
            count += len(strip.pairs)
            if most is not None and count > most:
                raise UserError(
                    f"more than {most} pairs of {len(vectors)} vectors reach the threshold {threshold}",
                    remedy="raise it; `selfsight thresholds` shows what a threshold lets through",
                )
    pairs = torch.cat([torch.empty((0, 2), dtype=torch.int64), *(part.pairs for part in found)])
    similarity = torch.cat([torch.empty(0), *(part.similarity for part in found)])
    order = torch.argsort(pairs[:, 0] * len(vectors) + pairs[:, 1])
    return NearPairs(pairs[order], similarity[order])


def _strips(vectors: Float[Tensor, "n dim"], threshold: float, threads: int) -> Generator[NearPairs, None, None]:
    if vectors.device.type != "cpu":
        for first in range(0, len(vectors), CUDA_BLOCK):
            yield _strip(vectors, threshold, first, CUDA_BLOCK)
        return
    whole = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, "near", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(lambda first: _strip(vectors, threshold, first, BLOCK), range(0, len(vectors), BLOCK))
    finally:
        torch.set_num_threads(whole)  # what starts later would have one thread as well


def _strip(vectors: Float[Tensor, "n dim"], threshold: float, first: int, side: int) -> NearPairs:
    """Pairs of `side` rows from `first` on with all columns that are not before them."""
    queries = vectors[first : first + side]
    buffer = torch.empty(side * side, dtype=vectors.dtype, device=vectors.device)
    pairs, similarity = [], []
    for column in range(first, len(vectors), side):
        columns = vectors[column : column + side]
        block = buffer[: len(queries) * len(columns)].view(len(queries), len(columns))
        torch.mm(queries, columns.T, out=block)
        near = (block.amax(dim=1) >= threshold).nonzero()[:, 0]
        if not len(near):
            continue
        rows = block[near]
        at, across = (rows >= threshold).nonzero(as_tuple=True)
        both = torch.stack([near[at] + first, across + column], dim=1)
        above = both[:, 0] < both[:, 1]
        pairs.append(both[above])
        similarity.append(rows[at, across][above])
    none = torch.empty((0, 2), dtype=torch.int64, device=vectors.device)
    return NearPairs(torch.cat([none, *pairs]).cpu(), torch.cat([buffer[:0], *similarity]).float().cpu())
