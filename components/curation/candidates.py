"""Pairs of images that may be copies of each other: few enough to look at each closely."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt64

from components.features.search import neighbour_pairs, top_k

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
        neighbours: nearest training images of every image, by embedding and by hash: frames of a fixed camera are all
            alike, and all with all would be too many.
        hash_distance: bits in which two hashes may differ.
        device: where the search runs.

    Returns:
        Pairs (i < j), sorted, each once.
    """
    found = [
        _by_embedding(vectors, evaluation, neighbours, device),
        _by_hash(hashes, evaluation, neighbours, hash_distance, device),
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


def _by_hash(
    hashes: UInt64[np.ndarray, " n"], evaluation: Bool[np.ndarray, " n"], neighbours: int, distance: int, device: str
) -> Int[np.ndarray, "pairs 2"]:
    """Pairs of like hashes. Images of one hash are chained, not paired all with all: plain pictures may be many."""
    order = np.argsort(hashes, kind="stable")
    equal = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
    chained = np.stack([order[equal], order[equal + 1]], axis=1)
    first = np.sort(np.unique(hashes, return_index=True)[1])
    training, held_out = first[~evaluation[first]], first[evaluation[first]]
    within = _near(hashes[training], hashes[training], neighbours + 1, distance, device)  # itself is the nearest
    across = _near(hashes[held_out], hashes[training], neighbours, distance, device)
    near = np.concatenate([training[within], np.stack([held_out[across[:, 0]], training[across[:, 1]]], axis=1)])
    return np.sort(np.concatenate([chained, near[near[:, 0] != near[:, 1]]]), axis=1)


def _near(
    queries: UInt64[np.ndarray, " q"], base: UInt64[np.ndarray, " n"], k: int, distance: int, device: str
) -> Int[np.ndarray, "pairs 2"]:
    """Positions (query, base) of each query's k nearest hashes within a distance; of equally near ones the first.

    The inner product of signs is the number of equal bits less that of differing ones. One more dimension lowers it by
    less than a bit, the more the later a hash stands in `base`, so that no two tie; doubles hold it all exactly.
    """
    late = torch.arange(len(base), dtype=torch.float64) * 0.5 ** (len(base).bit_length() + 1)
    left = torch.cat([_signs(queries), torch.ones(len(queries), 1, dtype=torch.float64)], dim=1)
    right = torch.cat([_signs(base), -late[:, None]], dim=1)
    similarity, positions = top_k(left.to(device), right.to(device), k)
    query, rank = (similarity > HASH_BITS - 2 * distance - 1).nonzero(as_tuple=True)
    pairs: Int[np.ndarray, "pairs 2"] = torch.stack([query, positions[query, rank]], dim=1).cpu().numpy()
    return pairs


def _signs(hashes: UInt64[np.ndarray, " n"]) -> Float[torch.Tensor, "n 64"]:
    """Bits as 1 and -1."""
    bits = np.unpackbits(hashes.astype("<u8")[:, None].view(np.uint8), axis=1)
    return torch.from_numpy(bits.astype(np.float64) * 2.0 - 1.0)
