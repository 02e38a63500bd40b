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
from components.tracking import progress

Queries = Mapping[str, Float[np.ndarray, "queries dim"]]
Nearest = tuple[Int[np.ndarray, "queries k"], Float[np.ndarray, "queries k"]]
SetName = Annotated[str, Field(pattern=r"^[\w-]{1,40}$")]
Mode = Literal["auto", "knn", "clusters", "balanced", "all"]

MOST_NEIGHBOURS = 30_000_000
"""Neighbours of all queries that are recorded at most: a column of their ids takes 2 GB, as much as Arrow holds."""
RANKED = 1 << 22
"""Similarities that are ranked at a time; they take about 100 MiB."""


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
    sets: dict[SetName, QuerySet] = Field(
        {}, description="sets of queries, by name; {}: each of several evaluation sources, else one of all its images"
    )
    neighbours: int = Field(16, ge=1, le=4096, description="knn: images that a query brings in")
    min_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="knn: share of the kept images at least; until it is reached, what a query brings in is doubled",
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

        Raises:
            UserError: if `auto` becomes `all` although there are sets: nothing would be made of them.
        """
        if self.mode == "auto" and self.sets and not own_evaluation:
            raise UserError(
                "retrieve.sets names sets of queries, but without an evaluation source retrieve.mode auto keeps "
                "every image",
                remedy="give an evaluation source (`--eval`), set retrieve.mode to knn or clusters, or drop "
                "retrieve.sets",
            )
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
    """Positions in the base, nearest first, of the queries of all sets in their order; `RetrieveParams.neighbours`."""
    similarity: Float[np.ndarray, "queries k"]
    """Cosine of each."""
    reach: int
    """Neighbours of a query that were brought in: `RetrieveParams.neighbours`, or what `min_share` made of it."""
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
        UserError: if fewer than `min_images` are left, or more than `MOST_NEIGHBOURS` neighbours would be recorded.
    """
    count = sum(len(one) for one in queries.values())
    if count * min(params.neighbours, len(base)) > MOST_NEIGHBOURS:
        raise UserError(
            f"{count:,} queries with {params.neighbours} neighbours each are more than {MOST_NEIGHBOURS:,} neighbours",
            remedy="lower retrieve.queries or retrieve.neighbours; retrieve.min_share alone brings in more",
        )
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
    nearest = _nearest(base, queries.values(), params.neighbours)
    return Retrieved(rows, *nearest, nearest[0].shape[1], (), clusters)


def _by_queries(
    base: Float[Tensor, "base dim"], queries: Queries, params: RetrieveParams, generator: np.random.Generator
) -> Retrieved:
    ways = {name: params.of_set(name) for name in queries}
    brought: dict[str, Brought] = {}
    clusters = None
    if any(mode == "clusters" for mode, _ in ways.values()):
        found = kmeans(base, params.votes.count(len(base)), generator, description="k-means")
        clusters = found.labels.cpu().numpy()
        for name, (mode, cap) in ways.items():
            if mode == "clusters":
                brought[name] = vote(found, queries[name], params.votes, cap, generator)
    nearest = _nearest(base, queries.values(), params.neighbours)
    reach = _bring_until_enough(base, queries, nearest, ways, params, brought)
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
    return Retrieved(chosen, *nearest, reach, accounts, clusters)


def _bring_until_enough(
    base: Float[Tensor, "base dim"],
    queries: Queries,
    nearest: Nearest,
    ways: Mapping[str, tuple[str, int | None]],
    params: RetrieveParams,
    brought: dict[str, Brought],
) -> int:
    """Note what the sets of mode knn bring in; where that is not enough, rank all images once and double the reach.

    Returns:
        Neighbours of a query that count.
    """
    caps = {name: cap for name, (mode, cap) in ways.items() if mode == "knn"}
    edges = dict(zip(queries, np.cumsum([0, *(len(one) for one in queries.values())])[:-1], strict=True))
    rows = {name: slice(edges[name], edges[name] + len(queries[name])) for name in caps}
    order = {name: _order_of_found(nearest[0][rows[name]], nearest[1][rows[name]], len(base)) for name in caps}
    reach, ranked = int(nearest[0].shape[1]), False
    while True:
        for name, cap in caps.items():
            within = _within(order[name], reach)
            brought[name] = Brought(np.sort(within[:cap]), len(within))
        open_sets = [
            name for name, cap in caps.items() if len(queries[name]) and (cap is None or brought[name].available < cap)
        ]
        enough = len(_union(brought.values())) >= params.min_share * len(base)
        if enough or not open_sets or reach >= len(base):
            return reach
        if not ranked:
            order |= {name: _order_of_all(base, queries[name]) for name in open_sets}
            ranked = True
        reach = min(2 * reach, len(base))


def _order_of_found(
    positions: Int[np.ndarray, "queries k"], similarity: Float[np.ndarray, "queries k"], count: int
) -> Float[np.ndarray, " base"]:
    """Place of each image in the order of retrieval: those of a better rank first, among equals the more similar.

    A cosine is at most 1, so that a quarter of it never reaches the next rank. Infinite for images that are not found.
    """
    places = np.full(count, np.inf)
    ranks = np.broadcast_to(np.arange(positions.shape[1], dtype=np.float64), positions.shape)
    np.minimum.at(places, positions.ravel(), (ranks - similarity / 4.0).ravel())
    return places


def _order_of_all(
    base: Float[Tensor, "base dim"], queries: Float[np.ndarray, "queries dim"]
) -> Float[np.ndarray, " base"]:
    """As `_order_of_found` of all ranks, in one pass and a block of queries at a time."""
    side = max(1, RANKED // len(base))
    places = torch.full((len(base),), torch.inf, dtype=torch.float64, device=base.device)
    ranks = torch.arange(len(base), dtype=torch.float64, device=base.device)
    starts = range(0, len(queries), side)
    for first in progress(starts, total=len(starts), description="rank for retrieve.min_share", unit="block"):
        some = torch.from_numpy(queries[first : first + side]).to(base.device)
        similarity, positions = (some @ base.T).sort(dim=1, descending=True, stable=True)
        for row in range(len(some)):
            places[positions[row]] = torch.minimum(places[positions[row]], ranks - similarity[row] / 4.0)
    return places.cpu().numpy()


def _within(places: Float[np.ndarray, " base"], reach: int) -> Int[np.ndarray, " found"]:
    """Images among the first so many neighbours of a query, in the order of retrieval."""
    order = np.argsort(places, kind="stable")
    return order[: np.count_nonzero(places < reach - 0.5)]


def _nearest(base: Float[Tensor, "base dim"], queries: Iterable[Float[np.ndarray, "queries dim"]], k: int) -> Nearest:
    together = torch.cat([base[:0], *(torch.from_numpy(one).to(base.device) for one in queries)])
    similarity, positions = top_k(together, base, k)
    return positions.cpu().numpy(), similarity.cpu().numpy()


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
