"""Query-free curation: hierarchical k-means with resampling, and balanced sampling from the hierarchy.

After Vo et al. 2024, "Automatic Data Curation for Self-Supervised Learning: A Clustering-Based Approach". Plain k-means
spends its clusters where the data is dense. Clustering the centroids again, and clustering only the points nearest to
each centroid, spreads the clusters over what the data covers instead of over how often it occurs; drawing alike from
all clusters of a level, from the top down, then evens out the concepts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, field_validator
from torch import Tensor

from components.curation.clustering import Clusters, assign, default_count, kmeans
from components.parameters import Params
from components.tracking import progress

NEXT_LEVEL = 10
"""Clusters of one cluster of the next level, where no levels are given."""


class BalancedParams(Params):
    """How `balanced` evens out what the images show."""

    share: float = Field(0.5, gt=0, le=1, description="share of the kept images that is drawn")
    levels: tuple[int, ...] = Field(
        (),
        description="clusters of each level, falling; []: one for 25 images, 4 √images where that is fewer, then a "
        "tenth as many while that leaves 10",
    )
    resampling: int = Field(
        10, ge=0, le=1000, description="how often each level is clustered anew on the images nearest to its centroids"
    )

    @field_validator("levels")
    @classmethod
    def _fall(cls, levels: tuple[int, ...]) -> tuple[int, ...]:
        if any(one < 1 for one in levels) or list(levels) != sorted(set(levels), reverse=True):
            raise ValueError("each level needs fewer clusters than the one before, and at least one")
        return levels


@dataclass(frozen=True)
class Hierarchy:
    """Clusters of clusters of points."""

    levels: tuple[Clusters, ...]
    """The first clusters the points; each further one the centroids of the level before."""

    def labels(self, level: int) -> Int[np.ndarray, " n"]:
        """Cluster of every point at a level; -1 is the top."""
        found = self.levels[0].labels
        for one in self.levels[1 : (level % len(self.levels)) + 1]:
            found = one.labels[found]
        return found.cpu().numpy()


def default_levels(points: int) -> tuple[int, ...]:
    """Clusters of each level, falling: as many as `default_count` says first, ten of them in one of the next.

    The paper has 743 M images in 10 M, 500 k, 50 k and 10 k clusters; its first level took a cluster of GPUs.
    """
    sizes = [default_count(points)]
    while sizes[-1] >= NEXT_LEVEL**2:
        sizes.append(sizes[-1] // NEXT_LEVEL)
    return tuple(sizes)


def hierarchical_kmeans(
    points: Float[Tensor, "n dim"], sizes: Sequence[int], resampling: int, generator: np.random.Generator
) -> Hierarchy:
    """Cluster points, then the centroids, and so on, each level with resampling.

    Args:
        points: vectors.
        sizes: clusters of each level, falling.
        resampling: how often a level is clustered anew on the points nearest to its centroids: half as many of each
            cluster as a cluster has in the mean.
        generator: of all draws.

    Returns:
        The hierarchy; a level has fewer clusters than asked for where it has fewer inputs.
    """
    levels: list[Clusters] = []
    inputs = points
    for level, wanted in enumerate(sizes, start=1):
        k = min(wanted, len(inputs))
        description = f"k-means, level {level}"
        found = kmeans(inputs, k, generator, description=description)
        rounds = range(resampling)
        for _ in progress(rounds, total=resampling, description=f"{description}, resampling", unit="round"):
            some = nearest_of_each(found, max(1, len(inputs) // (2 * k)))
            centroids = kmeans(inputs[some], min(k, len(some)), generator).centroids
            found = _occupied(inputs, centroids)
        levels.append(found)
        inputs = found.centroids
    return Hierarchy(tuple(levels))


def nearest_of_each(clusters: Clusters, count: int) -> Int[Tensor, " some"]:
    """Positions, rising, of the up to `count` points of each cluster that are nearest to its centroid."""
    order = torch.argsort(clusters.distances, stable=True)
    order = order[torch.argsort(clusters.labels[order], stable=True)]
    sizes = torch.bincount(clusters.labels, minlength=len(clusters.centroids))
    starts = sizes.cumsum(0) - sizes
    rank = torch.arange(len(order), device=order.device) - starts[clusters.labels[order]]
    return order[rank < count].sort().values


def _occupied(inputs: Float[Tensor, "n dim"], centroids: Float[Tensor, "k dim"]) -> Clusters:
    """Assign all inputs; centroids that get none are dropped."""
    labels, distances = assign(inputs, centroids)
    used, labels = torch.unique(labels, return_inverse=True)
    return Clusters(centroids[used], labels, distances)


def balanced_sample(hierarchy: Hierarchy, count: int, generator: np.random.Generator) -> Int[np.ndarray, " count"]:
    """Draw points so that all clusters of a level give alike, as far as they have points.

    From the top down a number of points is shared out among the clusters, `share_out`; in a cluster of the first level
    points are drawn evenly.

    Args:
        hierarchy: of the points.
        count: how many; all where there are no more.
        generator: of the draws.

    Returns:
        Positions, rising.
    """
    leaves = hierarchy.levels[0].labels.cpu().numpy()
    sizes = [np.bincount(leaves)]
    for level in hierarchy.levels[1:]:
        sizes.append(np.bincount(level.labels.cpu().numpy(), weights=sizes[-1]).astype(np.int64))
    quota = share_out(sizes[-1], count, generator)
    for level, below in zip(reversed(hierarchy.levels[1:]), reversed(sizes[:-1]), strict=True):
        parents = level.labels.cpu().numpy()
        shares = np.zeros(len(below), np.int64)
        for parent, children in _grouped(parents):
            shares[children] = share_out(below[children], int(quota[parent]), generator)
        quota = shares
    drawn = [
        generator.choice(members, size=int(quota[leaf]), replace=False)
        for leaf, members in _grouped(leaves)
        if quota[leaf]
    ]
    return np.sort(np.concatenate(drawn)) if drawn else np.zeros(0, np.int64)


def share_out(sizes: Int[np.ndarray, " k"], count: int, generator: np.random.Generator) -> Int[np.ndarray, " k"]:
    """Share a number out as evenly as sizes allow: all get the same, but no one more than its size.

    Args:
        sizes: what each can give.
        count: how many in all; the sum of the sizes where that is less.
        generator: draws who gives one more where it does not divide.

    Returns:
        Share of each; the sum is exact.
    """
    count = min(count, int(sizes.sum()))
    low, high = 0, int(sizes.max(initial=0))
    while low < high:  # the largest equal share that does not exceed the count
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() <= count else (low, middle - 1)
    shares: Int[np.ndarray, " k"] = np.minimum(sizes, low)
    more = np.flatnonzero(sizes > low)
    shares[generator.choice(more, size=count - int(shares.sum()), replace=False)] += 1
    return shares


def _grouped(labels: Int[np.ndarray, " n"]) -> list[tuple[int, Int[np.ndarray, " members"]]]:
    """Each label that occurs, with the positions that have it."""
    order = np.argsort(labels, kind="stable")
    found, starts = np.unique(labels[order], return_index=True)
    return list(zip(found.tolist(), np.split(order, starts[1:]), strict=True))
