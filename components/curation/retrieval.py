"""Keep what resembles the images one cares about (DINOv2, section 3: sample-based retrieval).

The queries are evaluation images without their labels, as in DINOv2, which retrieves around its benchmarks: a team's
evaluation set says which images it cares about.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field

from components.errors import UserError
from components.features.search import top_k
from components.parameters import Params


class RetrieveParams(Params):
    """Which of the kept images are trained on."""

    mode: Literal["auto", "knn", "all"] = Field(
        "auto",
        description="knn: the nearest images of the queries; all: every kept image, only scored; auto: knn where there "
        "is an evaluation source, else all, because a part held out by chance does not say what one cares about",
    )
    queries: int = Field(
        500, ge=1, le=100_000, description="query images, drawn by hash from the evaluation part, without labels"
    )
    neighbours: int = Field(16, ge=1, le=4096, description="images that a query brings in")
    min_share: float = Field(
        0.5, ge=0, le=1, description="share of the kept images at least; neighbours is doubled until it is reached"
    )
    min_images: int = Field(64, ge=1, description="images at least; fewer is an error")
    seed: int = Field(0, ge=0, description="of the draw of queries")

    def resolved(self, *, own_evaluation: bool) -> Self:
        """The same with `auto` resolved.

        Args:
            own_evaluation: whether the queries come from an evaluation source, not from a held-out part.
        """
        chosen = self.mode if self.mode != "auto" else ("knn" if own_evaluation else "all")
        return self.model_copy(update={"mode": chosen})


class Retrieved(NamedTuple):
    """Result of a retrieval."""

    rows: Int[np.ndarray, " chosen"]
    """Positions in the base of the images to train on, rising."""
    neighbours: Int[np.ndarray, "queries k"]
    """Positions in the base, nearest first."""
    similarity: Float[np.ndarray, "queries k"]
    """Cosine of each."""


def draw_queries(ids: Sequence[str], count: int, seed: int) -> list[str]:
    """Draw up to `count` ids, sorted: those of the smallest hashes, so that new images change few of them."""
    ranked = sorted(ids, key=lambda one: hashlib.sha256(f"{seed}:{one}".encode()).digest())
    return sorted(ranked[:count])


def retrieve(
    base: Float[np.ndarray, "base dim"], queries: Float[np.ndarray, "queries dim"], params: RetrieveParams, device: str
) -> Retrieved:
    """Unite the nearest images of all queries.

    Args:
        base: vectors of unit length of the images that deduplication kept.
        queries: vectors of unit length of the images one cares about.
        params: mode, resolved, and numbers.
        device: where the search runs.

    Raises:
        UserError: if fewer than `min_images` are left.
    """
    neighbours = params.neighbours
    while True:
        similarity, near = top_k(torch.from_numpy(queries).to(device), torch.from_numpy(base).to(device), neighbours)
        chosen = np.unique(near.cpu().numpy())
        enough = params.mode == "all" or len(chosen) >= params.min_share * len(base) or not len(queries)
        if enough or neighbours >= len(base):
            break
        neighbours *= 2
    if params.mode == "all":
        chosen = np.arange(len(base))
    if len(chosen) < params.min_images:
        raise UserError(
            f"retrieval leaves {len(chosen)} of {len(base)} images, fewer than retrieve.min_images {params.min_images}",
            remedy=_remedy(len(base), params),
        )
    return Retrieved(chosen, near.cpu().numpy(), similarity.cpu().numpy())


def _remedy(available: int, params: RetrieveParams) -> str:
    if available < params.min_images:
        return "give more images (`--data`), or lower retrieve.min_images"
    return "raise retrieve.neighbours or retrieve.min_share, or set retrieve.mode to all"
