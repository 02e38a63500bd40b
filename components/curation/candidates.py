"""Pairs of images that may be copies of each other: few enough to look at each closely."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt64

from components.features.large_search import ivf_top_k, nearest_hashes
from components.features.search import top_k

HASH_BITS = 64


class Search(NamedTuple):
    """How neighbours are searched."""

    exact_up_to: int
    """Training images up to which all are compared with all in full precision; beyond, faiss searches."""
    probes: int
    """Cells of the inverted file that faiss searches for an image."""
    device: str = "cpu"
    """Where the exact search runs."""


class Candidates(NamedTuple):
    """Pairs to look at."""

    pairs: Int[np.ndarray, "pairs 2"]
    """Positions (i < j), sorted, each once."""
    recall: float
    """Share of the nearest neighbours by embedding that the search found, on a sample; 1 if it was exact."""


def candidate_pairs(
    spaces: Sequence[Float[np.ndarray, "n dim"]],
    hashes: UInt64[np.ndarray, " n"],
    sets: Bool[np.ndarray, "sets n"],
    *,
    neighbours: int,
    hash_distance: int,
    search: Search,
) -> Candidates:
    """Unite what embeddings and perceptual hashes propose.

    Pairs within the evaluation part are left out: nothing is decided by them.

    Args:
        spaces: embeddings of unit length, one or several of each image.
        hashes: perceptual hashes.
        sets: whether an image is of each evaluation set.
        neighbours: nearest training images of every image, and nearest images of each evaluation set of every training
            image, by each embedding and by hash: frames of a fixed camera are all alike, and all with all would be too
            many. Without the second search an evaluation image would find so many of its leaks and no more; were it
            one search for all sets, a large one would hide the leaks of a small one.
        hash_distance: bits in which two hashes may differ.
        search: how.

    Raises:
        UserError: if there are more training images than `exact_up_to` and faiss is not installed.
    """
    evaluation = np.asarray(sets.any(axis=0))
    found = [embedding_candidates(vectors, sets, neighbours=neighbours, search=search) for vectors in spaces]
    by_hash = _by_hash(hashes, sets, neighbours, hash_distance, search)
    pairs = np.unique(np.concatenate([*(one.pairs for one in found), by_hash]), axis=0)
    return Candidates(pairs[~evaluation[pairs].all(axis=1)], min(one.recall for one in found))


def embedding_candidates(
    vectors: Float[np.ndarray, "n dim"], sets: Bool[np.ndarray, "sets n"], *, neighbours: int, search: Search
) -> Candidates:
    """Pair every image with its nearest training images, and these with the nearest images of each evaluation set.

    As `candidate_pairs`; the recall is that of the search that found less.
    """
    evaluation = np.asarray(sets.any(axis=0))
    training = np.flatnonzero(~evaluation)
    base = vectors[training]
    by_faiss = len(base) > search.exact_up_to
    near, recall = _nearest(vectors, base, neighbours + 1, search, by_faiss)
    wanted = near >= 0
    wanted[evaluation, neighbours:] = False  # one of the training part has found itself as well
    queries, _ = wanted.nonzero()
    found = [np.stack([queries, training[near[wanted]]], axis=1)]
    for held_out in filter(len, map(np.flatnonzero, sets)):
        near, of_held_out = _nearest(base, vectors[held_out], neighbours, search, by_faiss)
        queries, _ = (near >= 0).nonzero()
        found.append(np.stack([training[queries], held_out[near[near >= 0]]], axis=1))
        recall = min(recall, of_held_out)
    pairs = np.concatenate(found)
    return Candidates(np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0), recall)


def _nearest(
    queries: Float[np.ndarray, "q dim"], base: Float[np.ndarray, "n dim"], k: int, search: Search, by_faiss: bool
) -> tuple[Int[np.ndarray, "q k"], float]:
    """Positions in the base, -1 where faiss found fewer, and the recall."""
    if by_faiss:
        found = ivf_top_k(queries, base, min(k, len(base)), probes=search.probes)
        return found.positions, found.recall
    _, near = top_k(torch.from_numpy(queries).to(search.device), torch.from_numpy(base).to(search.device), k)
    return near.cpu().numpy(), 1.0


def _by_hash(
    hashes: UInt64[np.ndarray, " n"], sets: Bool[np.ndarray, "sets n"], neighbours: int, distance: int, search: Search
) -> Int[np.ndarray, "pairs 2"]:
    """Pairs of like hashes. Images of one hash are chained, not paired all with all: plain pictures may be many."""
    order = np.argsort(hashes, kind="stable")
    equal = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    chained = np.stack([order[equal], order[equal + 1]], axis=1)
    training = _first_of_each(hashes, np.flatnonzero(~sets.any(axis=0)))
    of_training, by_faiss = hashes[training], len(training) > search.exact_up_to
    within = _near(of_training, of_training, neighbours + 1, distance, search, by_faiss)  # itself is the nearest
    found = [chained, training[within[within[:, 0] != within[:, 1]]]]
    for held_out in (_first_of_each(hashes, np.flatnonzero(one)) for one in sets):
        across = _near(hashes[held_out], of_training, neighbours, distance, search, by_faiss)
        back = _near(of_training, hashes[held_out], neighbours, distance, search, by_faiss)[:, ::-1]
        both = np.concatenate([across, back])
        found.append(np.stack([held_out[both[:, 0]], training[both[:, 1]]], axis=1))
    return np.sort(np.concatenate(found), axis=1)


def _first_of_each(hashes: UInt64[np.ndarray, " n"], rows: Int[np.ndarray, " rows"]) -> Int[np.ndarray, " some"]:
    """Of the rows with one hash the first."""
    some: Int[np.ndarray, " some"] = rows[np.sort(np.unique(hashes[rows], return_index=True)[1])]
    return some


def _near(
    queries: UInt64[np.ndarray, " q"],
    base: UInt64[np.ndarray, " n"],
    k: int,
    distance: int,
    search: Search,
    by_faiss: bool,
) -> Int[np.ndarray, "pairs 2"]:
    """Positions (query, base) of each query's k nearest hashes within a distance; of equally near ones the first.

    The inner product of signs is the number of equal bits less that of differing ones. One more dimension lowers it by
    less than a bit, the more the later a hash stands in `base`, so that no two tie; doubles hold it all exactly.
    """
    if not len(base):
        return np.zeros((0, 2), np.int64)
    if by_faiss:
        apart, near = nearest_hashes(queries, base, k)
        close = apart <= distance
        return np.stack([close.nonzero()[0], near[close]], axis=1)
    late = torch.arange(len(base), dtype=torch.float64) * 0.5 ** (len(base).bit_length() + 1)
    left = torch.cat([_signs(queries), torch.ones(len(queries), 1, dtype=torch.float64)], dim=1)
    right = torch.cat([_signs(base), -late[:, None]], dim=1)
    similarity, positions = top_k(left.to(search.device), right.to(search.device), k)
    query, rank = (similarity > HASH_BITS - 2 * distance - 1).nonzero(as_tuple=True)
    pairs: Int[np.ndarray, "pairs 2"] = torch.stack([query, positions[query, rank]], dim=1).cpu().numpy()
    return pairs


def _signs(hashes: UInt64[np.ndarray, " n"]) -> Float[torch.Tensor, "n 64"]:
    """Bits as 1 and -1."""
    bits = np.unpackbits(hashes.astype("<u8")[:, None].view(np.uint8), axis=1)
    return torch.from_numpy(bits.astype(np.float64) * 2.0 - 1.0)
