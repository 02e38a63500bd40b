"""All pairs of near vectors, exactly: half of the products, in blocks that stay in cache, never all pairs in memory."""

import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
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


class Wanted(NamedTuple):
    """Which pairs of vectors count."""

    bounds: Float[Tensor, " n"]
    """Inner product from which on a pair with this vector counts; of a pair the lower."""
    aside: Bool[Tensor, " n"]
    """Two such vectors are no pair, however near."""

    def least(self) -> float:
        """Inner product below which no pair counts."""
        return float(self.bounds.min()) if len(self.bounds) else 0.0


class _Budget:
    """Pairs that may still be found, by any thread."""

    def __init__(self, most: int | None, vectors: int, wanted: Wanted) -> None:
        self._most = most
        self._left = most
        self._what = f"{vectors} vectors reach the threshold {wanted.least():.4g}"
        self._lock = threading.Lock()

    def spend(self, count: int) -> None:
        """Takes notice of so many more pairs, before any memory is used for them.

        Raises:
            UserError: if they are too many.
        """
        if self._left is None:
            return
        with self._lock:
            self._left -= count
        if self._left < 0:
            raise UserError(
                f"more than {self._most} pairs of {self._what}",
                remedy="raise it (dedup.threshold, of training images; dedup.leak_threshold, of the others); "
                "`selfsight thresholds` shows what a threshold lets through",
            )


def near_pairs(
    vectors: Float[Tensor, "n dim"],
    threshold: float | Wanted,
    *,
    most: int | None = None,
    threads: int | None = None,
) -> NearPairs:
    """Find every pair (i < j) whose inner product is at least the threshold.

    Only blocks on and above the diagonal are computed. Of a block first the maximum of each row is taken, in one pass
    over what is in the cache; single products are looked at only in rows that reach the threshold. On a CPU each block
    is the work of one thread, so that threads never wait for each other and their number does not change a bit.

    Args:
        vectors: on any device; unit length makes the inner product the cosine.
        threshold: least inner product; or which pairs count, on the same device.
        most: pairs at most, of those that count; None admits any number.
        threads: that search on a CPU; default: those of torch.

    Raises:
        UserError: if there are more pairs than `most`: the threshold is no threshold for such vectors.
    """
    if not isinstance(threshold, Wanted):
        none = torch.zeros(len(vectors), dtype=torch.bool, device=vectors.device)
        threshold = Wanted(torch.full_like(none, threshold, dtype=vectors.dtype), none)
    budget = _Budget(most, len(vectors), threshold)
    with closing(_strips(vectors, threshold, budget, threads or torch.get_num_threads())) as strips:
        found = list(strips)
    pairs = torch.cat([torch.empty((0, 2), dtype=torch.int64), *(part.pairs for part in found)])
    similarity = torch.cat([torch.empty(0), *(part.similarity for part in found)])
    order = torch.argsort(pairs[:, 0] * len(vectors) + pairs[:, 1])
    return NearPairs(pairs[order], similarity[order])


def _strips(
    vectors: Float[Tensor, "n dim"], wanted: Wanted, budget: _Budget, threads: int
) -> Generator[NearPairs, None, None]:
    if vectors.device.type != "cpu":
        for first in range(0, len(vectors), CUDA_BLOCK):
            yield _strip(vectors, wanted, budget, first, CUDA_BLOCK)
        return
    starts = range(0, len(vectors), BLOCK)
    whole = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, "near", initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(lambda first: _strip(vectors, wanted, budget, first, BLOCK), starts)
    finally:
        torch.set_num_threads(whole)  # what starts later would have one thread as well


def _strip(vectors: Float[Tensor, "n dim"], wanted: Wanted, budget: _Budget, first: int, side: int) -> NearPairs:
    """Pairs of `side` rows from `first` on with all columns that are not before them."""
    least = wanted.least()
    queries = vectors[first : first + side]
    buffer = torch.empty(side * side, dtype=vectors.dtype, device=vectors.device)
    pairs, similarity = [], []
    for column in range(first, len(vectors), side):
        columns = vectors[column : column + side]
        block = buffer[: len(queries) * len(columns)].view(len(queries), len(columns))
        torch.mm(queries, columns.T, out=block)
        near = (block.amax(dim=1) >= least).nonzero()[:, 0]
        if not len(near):
            continue
        rows = block[near]
        counts = _counting(rows, near + first, slice(column, column + len(columns)), wanted)
        budget.spend(int(counts.count_nonzero()))
        at, across = counts.nonzero(as_tuple=True)
        pairs.append(torch.stack([near[at] + first, across + column], dim=1))
        similarity.append(rows[at, across])
    none = torch.empty((0, 2), dtype=torch.int64, device=vectors.device)
    return NearPairs(torch.cat([none, *pairs]).cpu(), torch.cat([buffer[:0], *similarity]).float().cpu())


def _counting(
    similarity: Float[Tensor, "rows columns"], rows: Int[Tensor, " rows"], columns: slice, wanted: Wanted
) -> Bool[Tensor, "rows columns"]:
    """Which products of a block belong to pairs that count, above the diagonal."""
    enough = (similarity >= wanted.bounds[rows, None]) | (similarity >= wanted.bounds[columns])
    enough &= rows[:, None] < torch.arange(columns.start, columns.stop, device=rows.device)
    enough &= ~(wanted.aside[rows, None] & wanted.aside[columns])
    return enough
