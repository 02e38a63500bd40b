"""Search in sets too large for comparing all with all in full precision, by faiss."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt64

from components.errors import UserError
from components.features.search import top_k

if TYPE_CHECKING:
    import types

SAMPLE = 512
"""Queries that recall is measured on."""
TRAINED_ON = 64
"""Vectors for each cell that the cells are learnt from."""
QUERY_BLOCK = 16_384
EQUAL = 1e-5
"""Difference of two inner products up to which they count as the same."""


class Found(NamedTuple):
    """Nearest neighbours, and how many of them there are."""

    similarity: Float[np.ndarray, "q k"]
    positions: Int[np.ndarray, "q k"]
    """In the base, nearest first."""
    recall: float
    """Share of the true k nearest that was found, on a sample of the queries."""


def ivf_top_k(queries: Float[np.ndarray, "q dim"], base: Float[np.ndarray, "n dim"], k: int, *, probes: int) -> Found:
    """Find most of the k nearest of `base` to every query, in an inverted file (Sivic and Zisserman 2003).

    The base is cut into 4 √n cells by k-means; of each query only the nearest cells are searched. It holds a second
    copy of the base.

    Args:
        queries: float32.
        base: float32, at least `k` vectors.
        k: how many.
        probes: cells that are searched for a query.

    Raises:
        UserError: if faiss is not installed.
    """
    faiss = _faiss()
    count, dimension = base.shape
    cells = max(1, min(round(4 * math.sqrt(count)), count // TRAINED_ON))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dimension), dimension, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = 0
    index.train(np.ascontiguousarray(base[_spread(count, cells * TRAINED_ON)]))
    for first in range(0, count, QUERY_BLOCK):
        index.add(np.ascontiguousarray(base[first : first + QUERY_BLOCK]))
    index.nprobe = min(probes, cells)
    similarity = np.empty((len(queries), k), np.float32)
    positions = np.empty((len(queries), k), np.int64)
    for first in range(0, len(queries), QUERY_BLOCK):
        rows = slice(first, first + QUERY_BLOCK)
        similarity[rows], positions[rows] = index.search(np.ascontiguousarray(queries[rows]), k)
    return Found(similarity, positions, _recall(queries, base, similarity))


def nearest_hashes(
    queries: UInt64[np.ndarray, " q"], base: UInt64[np.ndarray, " n"], k: int
) -> tuple[Int[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
    """Find the k nearest hashes exactly, by counting bits.

    Returns:
        Bits in which they differ, rising, and positions in `base`.

    Raises:
        UserError: if faiss is not installed.
    """
    index = _faiss().IndexBinaryFlat(64)
    index.add(_octets(base))
    distance, positions = index.search(_octets(queries), min(k, len(base)))
    return distance, positions


def _recall(
    queries: Float[np.ndarray, "q dim"], base: Float[np.ndarray, "n dim"], found: Float[np.ndarray, "q k"]
) -> float:
    """Share of the found that are as near as the k-th truly nearest: of equally near ones any will do."""
    sample = _spread(len(queries), SAMPLE)
    if not len(sample):
        return 1.0
    exact, _ = top_k(torch.from_numpy(np.ascontiguousarray(queries[sample])), torch.from_numpy(base), found.shape[1])
    return float((found[sample] >= exact[:, -1:].numpy() - EQUAL).mean())


def _spread(count: int, most: int) -> Int[np.ndarray, " chosen"]:
    """Up to `most` positions, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64)) if count else np.zeros(0, np.int64)


def _octets(hashes: UInt64[np.ndarray, " n"]) -> Any:
    return np.ascontiguousarray(hashes.astype("<u8")).view(np.uint8).reshape(-1, 8)


def _faiss() -> "types.ModuleType":
    try:
        import faiss
    except ImportError:
        remedy = "install it with `pip install 'selfsight[faiss]'`, or raise dedup.exact_up_to"
        raise UserError("so many images are searched by faiss, which is not installed", remedy=remedy) from None
    found: types.ModuleType = faiss
    return found
