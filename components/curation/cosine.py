"""Copies told by the cosine of their embeddings alone, as in DINOv2 (appendix A.3)."""

import numpy as np
import torch
from jaxtyping import Bool, Float

from components.curation.candidates import Search, embedding_candidates
from components.curation.copies import Copies
from components.features.near_pairs import Wanted, near_pairs

MOST = 64
"""Pairs for each image at most that decide something, as many as DINOv2 looks at. More are no copies but a threshold
that is too low."""
BLOCK = 65_536
"""Pairs whose cosines are taken together."""


def cosine_copies(
    vectors: Float[np.ndarray, "n dim"],
    sets: Bool[np.ndarray, "sets n"],
    *,
    bounds: Float[np.ndarray, " n"],
    neighbours: int,
    search: Search,
) -> tuple[Copies, float]:
    """Find the pairs of images whose embeddings are near.

    Up to `search.exact_up_to` training images all such pairs are found. Beyond it they are those among the nearest
    neighbours of each image that faiss finds; pairs within the evaluation part are left out.

    Args:
        vectors: embeddings of unit length.
        sets: whether an image is of each evaluation set.
        bounds: cosine from which on a pair with this image counts; of a pair the lower.
        neighbours: of each image, where faiss searches.
        search: how.

    Returns:
        The pairs, their cosine as `agreement`; and the share of the neighbours that the search found.

    Raises:
        UserError: if there are more pairs than `MOST` for each image, or faiss is needed and not installed.
    """
    evaluation = np.asarray(sets.any(axis=0))
    if np.count_nonzero(~evaluation) > search.exact_up_to:
        pairs, recall = embedding_candidates(vectors, sets, neighbours=neighbours, search=search)
        cosine = _cosines(vectors, pairs)
        near = cosine >= bounds[pairs].min(axis=1)
        pairs, cosine = pairs[near], cosine[near]
    else:
        base, aside = (torch.from_numpy(values).to(search.device) for values in (vectors, evaluation))
        wanted = Wanted(torch.from_numpy(bounds).to(base), aside)
        found, similarity = near_pairs(base, wanted, most=MOST * len(vectors))
        pairs, cosine, recall = found.numpy(), similarity.numpy(), 1.0
    useful = ~evaluation[pairs].all(axis=1)
    return Copies(pairs[useful], cosine[useful], np.zeros(np.count_nonzero(useful), bool)), recall


def _cosines(vectors: Float[np.ndarray, "n dim"], pairs: np.ndarray) -> Float[np.ndarray, " pairs"]:
    found = np.empty(len(pairs), np.float32)
    for first in range(0, len(pairs), BLOCK):
        one, other = pairs[first : first + BLOCK].T
        found[first : first + BLOCK] = np.einsum("pd,pd->p", vectors[one], vectors[other])
    return found
