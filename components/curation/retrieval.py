"""Keep what resembles the images one cares about, or what evens out the images there are.

The queries are evaluation images without their labels, as in DINOv2 (section 3), which retrieves around its benchmarks:
a team's evaluation set says which images it cares about. Without queries `balanced` draws alike from what there is.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from components.curation.clustering import kmeans
from components.curation.hierarchy import BalancedParams, balanced_sample, default_levels, hierarchical_kmeans
from components.curation.queries import Brought, QuerySet
from components.curation.votes import VotesParams, vote
from components.errors import UserError
from components.features.search import top_k
from components.parameters import Params

Queries = Mapping[str, Float[np.ndarray, "queries dim"]]
Nearest = tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]
SetName = Annotated[str, Field(pattern=r"^[\w-]{1,40}$")]
Mode = Literal["auto", "knn", "clusters", "balanced", "all"]


class RetrieveParams(Params):
    """Which of the kept images are trained on."""

    mode: Mode = Field(
        "auto",
        description="knn: the nearest images of the queries; clusters: images of the clusters that queries vote for; "
        "balanced: as many of one thing as of another, without queries; all: every kept image, only scored; auto: knn "
        "where there is an evaluation source, else all, because a part held out by chance does not say what one cares "
        "about",
    )
    queries: int = Field(
        500, ge=1, le=100_000, description="query images of a set, drawn by hash from the evaluation part, unlabelled"
    )
    sets: dict[SetName, QuerySet] = Field({}, description="sets of queries, by name; {}: one of all evaluation images")
    neighbours: int = Field(16, ge=1, le=4096, description="knn: images that a query brings in")
    min_share: float = Field(
        0.5, ge=0, le=1, description="knn: share of the kept images at least; neighbours is doubled until it is reached"
    )
    cap: int | None = Field(None, ge=1, description="images that one set brings in at most. DINOv2 took a million")
    votes: VotesParams = Field(VotesParams(), description="how clusters retrieves")
    balanced: BalancedParams = Field(BalancedParams(), description="how balanced draws")
    min_images: int = Field(64, ge=1, description="images at least; fewer is an error")
    seed: int = Field(0, ge=0, description="of all draws")

    def resolved(self, *, own_evaluation: bool) -> Self:
        """The same with `auto` resolved.

        Args:
            own_evaluation: whether the queries come from an evaluation source, not from a held-out part.
        """
        chosen = self.mode if self.mode != "auto" else ("knn" if own_evaluation else "all")
        return self.model_copy(update={"mode": chosen})

    def of_set(self, name: str) -> tuple[str, int | None]:
        """Mode and cap of a set."""
        own = self.sets.get(name)
        mode = "clusters" if self.mode == "clusters" else "knn"
        if own is None:
            return mode, self.cap
        return own.mode or mode, own.cap or self.cap


class SetAccount(NamedTuple):
    """What one set of queries brought in; the columns of its table."""

    name: str
    mode: str
    queries: int
    clusters: int
    """Clusters with votes enough; 0 for knn."""
    available: int
    """Images within its reach."""
    brought: int
    """Images after the cap."""
    alone: int
    """Images that no other set brought."""


class Retrieved(NamedTuple):
    """Result of a retrieval."""

    rows: Int[np.ndarray, " chosen"]
    """Positions in the base of the images to train on, rising."""
    neighbours: Int[np.ndarray, "queries k"]
    """Positions in the base, nearest first, of the queries of all sets in their order."""
    similarity: Float[np.ndarray, "queries k"]
    """Cosine of each."""
    sets: tuple[SetAccount, ...]
    clusters: Int[np.ndarray, " base"] | None
    """Cluster of each image, where the images were clustered; of a hierarchy the top level."""


def retrieve(
    base: Float[np.ndarray, "base dim"],
    queries: Queries,
    params: RetrieveParams,
    device: str,
) -> Retrieved:
    """Choose images.

    Args:
        base: vectors of unit length of the images that deduplication kept.
        queries: of each set, vectors of unit length of the images one cares about.
        params: mode, resolved, and numbers.
        device: where search and clustering run.

    Raises:
        UserError: if fewer than `min_images` are left.
    """
    images = torch.from_numpy(base).to(device)
    generator = np.random.default_rng(params.seed)
    if params.mode in ("all", "balanced"):
        found = _without_queries(images, queries, params, generator)
    else:
        found = _by_queries(images, queries, params, generator)
    if len(found.rows) < params.min_images:
        raise UserError(
            f"retrieval leaves {len(found.rows)} of {len(base)} images, fewer than retrieve.min_images "
            f"{params.min_images}",
            remedy=_remedy(len(base), params),
        )
    return found


def _without_queries(
    base: Float[Tensor, "base dim"], queries: Queries, params: RetrieveParams, generator: np.random.Generator
) -> Retrieved:
    rows, clusters = np.arange(len(base)), None
    if params.mode == "balanced":
        sizes = params.balanced.levels or default_levels(len(base))
        hierarchy = hierarchical_kmeans(base, sizes, params.balanced.resampling, generator)
        rows = balanced_sample(hierarchy, round(params.balanced.share * len(base)), generator)
        clusters = hierarchy.labels(-1)
    return Retrieved(rows, *_nearest(base, queries.values(), params.neighbours), (), clusters)


def _by_queries(
    base: Float[Tensor, "base dim"], queries: Queries, params: RetrieveParams, generator: np.random.Generator
) -> Retrieved:
    ways = {name: params.of_set(name) for name in queries}
    brought: dict[str, Brought] = {}
    clusters = None
    if any(mode == "clusters" for mode, _ in ways.values()):
        found = kmeans(base, params.votes.count(len(base)), generator)
        clusters = found.labels.cpu().numpy()
        for name, (mode, cap) in ways.items():
            if mode == "clusters":
                brought[name] = vote(found, queries[name], params.votes, cap, generator)
    nearest = _nearest_until_enough(base, queries, ways, params, brought)
    chosen = _union(brought.values())
    times = np.bincount(np.concatenate([one.rows for one in brought.values()]), minlength=len(base))
    accounts = tuple(
        SetAccount(
            name=name,
            mode=mode,
            queries=len(queries[name]),
            clusters=brought[name].clusters,
            available=brought[name].available,
            brought=len(brought[name].rows),
            alone=int((times[brought[name].rows] == 1).sum()),
        )
        for name, (mode, _) in ways.items()
    )
    return Retrieved(chosen, *nearest, accounts, clusters)


def _nearest_until_enough(
    base: Float[Tensor, "base dim"],
    queries: Queries,
    ways: Mapping[str, tuple[str, int | None]],
    params: RetrieveParams,
    brought: dict[str, Brought],
) -> Nearest:
    """Find the neighbours of all queries, and note what the sets of mode knn bring in; double k until it suffices."""
    edges = np.cumsum([0, *(len(one) for one in queries.values())])
    neighbours = params.neighbours
    while True:
        positions, similarity = _nearest(base, queries.values(), neighbours)
        grows = False
        for at, (name, (mode, cap)) in enumerate(ways.items()):
            if mode == "knn":
                rows = slice(edges[at], edges[at + 1])
                ranked = _by_rank(positions[rows], similarity[rows])
                brought[name] = Brought(np.sort(ranked[:cap]), len(ranked))
                grows |= len(queries[name]) > 0 and (cap is None or len(ranked) < cap)
        enough = len(_union(brought.values())) >= params.min_share * len(base)
        if enough or not grows or neighbours >= len(base):
            return positions, similarity
        neighbours *= 2


def _nearest(base: Float[Tensor, "base dim"], queries: Iterable[Float[np.ndarray, "queries dim"]], k: int) -> Nearest:
    together = torch.cat([base[:0], *(torch.from_numpy(one).to(base.device) for one in queries)])
    similarity, positions = top_k(together, base, k)
    return positions.cpu().numpy(), similarity.cpu().numpy()


def _by_rank(
    positions: Int[np.ndarray, "queries k"], similarity: Float[np.ndarray, "queries k"]
) -> Int[np.ndarray, " found"]:
    """Every image found, once: those of a better rank first, among equals the more similar."""
    rank = np.broadcast_to(np.arange(positions.shape[1]), positions.shape)
    order = np.lexsort((positions.ravel(), -similarity.ravel(), rank.ravel()))
    found = positions.ravel()[order]
    _, first = np.unique(found, return_index=True)
    return found[np.sort(first)]


def _union(brought: Iterable[Brought]) -> Int[np.ndarray, " chosen"]:
    return np.unique(np.concatenate([np.zeros(0, np.int64), *(one.rows for one in brought)]))


def _remedy(available: int, params: RetrieveParams) -> str:
    if available < params.min_images:
        return "give more images (`--data`), or lower retrieve.min_images"
    if params.mode == "balanced":
        return "raise retrieve.balanced.share, or set retrieve.mode to all"
    if params.mode == "clusters":
        return "lower retrieve.votes.least or retrieve.votes.clusters, or set retrieve.mode to all"
    return "raise retrieve.neighbours or retrieve.min_share, or set retrieve.mode to all"
