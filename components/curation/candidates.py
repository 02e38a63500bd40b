"""Pairs of images that may be copies of each other: few enough to look at each closely."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt64

from components.features.search import neighbour_pairs, pairs_above, top_k

HASH_BITS = 64


def candidate_pairs(
    vectors: Float[np.ndarray, "n dim"],
    hashes: UInt64[np.ndarray, " n"],
    evaluation: Bool[np.ndarray, " n"],
    *,
    neighbours: int,
    hash_distance: int,
    device: str = "cpu",
) -> Int[np.ndarray, "pairs 2"]:
    """Unite what embeddings and perceptual hashes propose.

    Pairs within the evaluation part are left out: nothing is decided by them.

    Args:
        vectors: embeddings of unit length.
        hashes: perceptual hashes.
        evaluation: whether an image is of the evaluation part.
        neighbours: nearest training images of every image.
        hash_distance: bits in which two hashes may differ.
        device: where the search runs.

    Returns:
        Pairs (i < j), sorted, each once.
    """
    found = [
        _by_embedding(vectors, evaluation, neighbours, device),
        _by_hash(hashes, hash_distance, device),
    ]
    pairs: Int[np.ndarray, "pairs 2"] = np.unique(np.concatenate(found), axis=0)
    useful: Int[np.ndarray, "pairs 2"] = pairs[~evaluation[pairs].all(axis=1)]
    return useful


def _by_embedding(
    vectors: Float[np.ndarray, "n dim"], evaluation: Bool[np.ndarray, " n"], neighbours: int, device: str
) -> Int[np.ndarray, "pairs 2"]:
    training, held_out = np.flatnonzero(~evaluation), np.flatnonzero(evaluation)
    base = torch.from_numpy(vectors[training]).to(device)
    within = training[neighbour_pairs(base, neighbours).cpu().numpy()]
    _, near = top_k(torch.from_numpy(vectors[held_out]).to(device), base, neighbours)
    queries = np.repeat(held_out, near.shape[1])
    across = np.stack([queries, training[near.cpu().numpy().reshape(-1)]], axis=1)
    return np.concatenate([within, np.sort(across, axis=1)])


def _by_hash(hashes: UInt64[np.ndarray, " n"], distance: int, device: str) -> Int[np.ndarray, "pairs 2"]:
    """Pairs of like hashes. Images of one hash are chained, not paired all with all: plain pictures may be many."""
    order = np.argsort(hashes, kind="stable")
    equal = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    chained = np.stack([order[equal], order[equal + 1]], axis=1)
    distinct, first = np.unique(hashes, return_index=True)
    bits = np.unpackbits(distinct.astype("<u8")[:, None].view(np.uint8), axis=1)
    signs = torch.from_numpy(bits.astype(np.float32) * 2.0 - 1.0).to(device)
    near, _ = pairs_above(signs, HASH_BITS - 2 * distance - 0.5)
    return np.sort(np.concatenate([chained, first[near.cpu().numpy()]]), axis=1)
