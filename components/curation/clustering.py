"""k-means in blocks: memory holds the vectors, the centroids and one block of distances."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from components.tracking import progress

POINT_BLOCK = 4096
CENTROID_BLOCK = 4096
"""One block of distances takes 64 MiB."""
SEEDING_ROUNDS = 128
"""Passes over the points that seeding may take; up to so many centroids it is k-means++ itself."""
IMAGES_A_CLUSTER = 25
"""Of a small set."""
CLUSTERS_OF_A_ROOT = 4
"""Clusters of a large set, for the square root of its size: DINOv2 took 100,000 of 744 million images."""


class Clusters(NamedTuple):
    """Result of a clustering."""

    centroids: Float[Tensor, "k dim"]
    labels: Int[Tensor, " n"]
    """Cluster of each point; every cluster has a point."""
    distances: Float[Tensor, " n"]
    """Squared Euclidean distance of each point to its centroid."""


def default_count(points: int) -> int:
    """Clusters where no number is given: one for 25 points, and from 10,000 points on four times their square root.

    The time of a clustering grows with points × clusters; as many clusters as points / 25 would take months for those
    of DINOv2, and hours for a million.
    """
    return max(1, min(points // IMAGES_A_CLUSTER, round(CLUSTERS_OF_A_ROOT * math.sqrt(points))))


def assign(
    points: Float[Tensor, "n dim"], centroids: Float[Tensor, "k dim"]
) -> tuple[Int[Tensor, " n"], Float[Tensor, " n"]]:
    """Find the nearest centroid of every point; of equally near ones the first.

    Args:
        points: float32 or float64.
        centroids: of the same type, on the same device.

    Returns:
        Position in `centroids`, and squared Euclidean distance.
    """
    labels = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    for first in range(0, len(points), POINT_BLOCK):
        block = points[first : first + POINT_BLOCK]
        nearest = torch.full((len(block),), torch.inf, dtype=points.dtype, device=points.device)
        where = torch.zeros(len(block), dtype=torch.int64, device=points.device)
        for start in range(0, len(centroids), CENTROID_BLOCK):
            some = centroids[start : start + CENTROID_BLOCK]
            # without the square of the point, which is the same for every centroid
            values, found = (some.square().sum(dim=1) - 2.0 * block @ some.T).min(dim=1)
            closer = values < nearest
            nearest = torch.where(closer, values, nearest)
            where = torch.where(closer, found + start, where)
        labels[first : first + len(block)] = where
    return labels, own_distances(points, centroids, labels)


def own_distances(
    points: Float[Tensor, "n dim"], centroids: Float[Tensor, "k dim"], labels: Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Squared Euclidean distance of every point to the centroid of its cluster."""
    blocks = [slice(first, first + POINT_BLOCK) for first in range(0, len(points), POINT_BLOCK)]
    return torch.cat([(points[rows] - centroids[labels[rows]]).square().sum(dim=1) for rows in blocks])


def kmeans(
    points: Float[Tensor, "n dim"],
    k: int,
    generator: np.random.Generator,
    *,
    iterations: int = 50,
    restarts: int = 1,
    description: str | None = None,
) -> Clusters:
    """Cluster points by Lloyd's iteration from k-means++ seeds (Arthur & Vassilvitskii 2007).

    A cluster that loses its last point takes the point that is farthest from its own centroid.

    Args:
        points: float32 or float64.
        k: clusters; at most as many as there are points.
        generator: of the seeds.
        iterations: at most; it ends when no point changes its cluster.
        restarts: seeds drawn; of several results the one of the least squared distances counts.
        description: shown as progress; None shows none.

    Raises:
        ValueError: if k is no number of clusters of these points.
    """
    if not 1 <= k <= len(points):
        raise ValueError(f"{len(points)} points make no {k} clusters")
    starts = (points[seeds(points, k, generator, description=description)] for _ in range(restarts))
    found = (_lloyd(points, one, iterations, description) for one in starts)
    return min(found, key=lambda one: float(one.distances.sum()))


def _lloyd(
    points: Float[Tensor, "n dim"], centroids: Float[Tensor, "k dim"], iterations: int, description: str | None
) -> Clusters:
    k = len(centroids)
    labels, distances = assign(points, centroids)
    for _ in progress(range(iterations), total=iterations, description=description, unit="pass"):
        _fill(labels, distances, k)
        centroids = means(points, labels, k)
        before = labels
        labels, distances = assign(points, centroids)
        if torch.equal(labels, before):
            break
    if _fill(labels, distances, k):
        centroids = means(points, labels, k)
        distances = own_distances(points, centroids, labels)
    return Clusters(centroids, labels, distances)


def means(points: Float[Tensor, "n dim"], labels: Int[Tensor, " n"], k: int) -> Float[Tensor, "k dim"]:
    """Mean of the points of each cluster, summed in double precision; zero where there are none."""
    sums = torch.zeros(k, points.shape[1], dtype=torch.float64, device=points.device)
    for first in range(0, len(points), POINT_BLOCK):
        rows = slice(first, first + POINT_BLOCK)
        sums.index_add_(0, labels[rows], points[rows].double())
    counts = torch.bincount(labels, minlength=k).clamp(min=1)
    return (sums / counts[:, None]).to(points.dtype)


def seeds(
    points: Float[Tensor, "n dim"], k: int, generator: np.random.Generator, *, description: str | None = None
) -> Int[Tensor, " k"]:
    """Draw k different points, each with a chance that grows with the squared distance to those drawn before.

    Beyond `SEEDING_ROUNDS` several are drawn a round, as in k-means‖ (Bahmani et al. 2012), because a pass over all
    points for each of many thousand centroids takes longer than the clustering.
    """
    label = description and f"{description}, seeds"
    rounds = progress(_rounds(points, k, generator), total=min(k, SEEDING_ROUNDS), description=label, unit="round")
    return torch.from_numpy(np.concatenate(list(rounds))).to(points.device)


def _rounds(
    points: Float[Tensor, "n dim"], k: int, generator: np.random.Generator
) -> Iterator[Int[np.ndarray, " drawn"]]:
    """What each round of seeding draws."""
    chosen = generator.integers(len(points), size=1)
    distances = np.full(len(points), np.inf)
    fresh, a_round = chosen, -(-k // SEEDING_ROUNDS)
    yield fresh
    while len(chosen) < k:
        _, near = assign(points, points[torch.from_numpy(fresh).to(points.device)])
        distances = np.minimum(distances, near.double().cpu().numpy())
        distances[chosen] = 0.0
        fresh = _draw(distances, chosen, min(a_round, k - len(chosen)), generator)
        chosen = np.concatenate([chosen, fresh])
        yield fresh


def _draw(
    weights: Float[np.ndarray, " n"], taken: Int[np.ndarray, " m"], count: int, generator: np.random.Generator
) -> Int[np.ndarray, " count"]:
    """Up to `count` different positions by weight; where all weights are zero, any that are not taken."""
    total = np.cumsum(weights)
    if total[-1] <= 0:
        return generator.choice(np.setdiff1d(np.arange(len(weights)), taken), size=count, replace=False)
    drawn = np.searchsorted(total, generator.random(count) * total[-1], side="right")
    return np.unique(np.minimum(drawn, int(np.flatnonzero(weights)[-1])))


def _fill(labels: Int[Tensor, " n"], distances: Float[Tensor, " n"], k: int) -> bool:
    """Give every empty cluster a point of its own, in place; returns whether there was an empty one.

    Taken are the points farthest from their centroids, of clusters that keep another one.
    """
    counts = torch.bincount(labels, minlength=k)
    empty = torch.nonzero(counts == 0).flatten().tolist()
    if not empty:
        return False
    farthest = iter(torch.argsort(distances, descending=True, stable=True).tolist())
    for cluster in empty:
        point = next(one for one in farthest if counts[labels[one]] > 1)
        counts[labels[point]] -= 1
        counts[cluster] = 1
        labels[point], distances[point] = cluster, 0.0
    return True
