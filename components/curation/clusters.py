"""Clusters of the training images before and after curation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from components.curation.clustering import kmeans

TYPICAL = 8
LEAST = 10
"""Images of a cluster in the mean, below which fewer clusters are made."""
RESTARTS = 3


class TrainingClusters(NamedTuple):
    """k-means clusters of the readable training images."""

    labels: Int[np.ndarray, " n"]
    before: Int[np.ndarray, " k"]
    """Images of each cluster."""
    after: Int[np.ndarray, " k"]
    """Those of them that are trained on."""
    typical: list[list[tuple[str, bool]]]
    """Of each cluster the images nearest to its centroid, and whether they went."""


def training_clusters(
    ids: Sequence[str], vectors: Float[np.ndarray, "n dim"], stays: Bool[np.ndarray, " n"], k: int, seed: int
) -> TrainingClusters:
    """Cluster the images that came, and count those that are trained on.

    Args:
        ids: of the images.
        vectors: of the images.
        stays: whether an image is trained on.
        k: clusters; fewer for fewer than ten images a cluster.
        seed: of the seeds.
    """
    k = max(1, min(k, len(ids) // LEAST))
    found = kmeans(torch.from_numpy(vectors), k, np.random.default_rng(seed), restarts=RESTARTS)
    labels, distances = found.labels.numpy(), found.distances.numpy()
    typical = []
    for cluster in range(k):
        members = np.flatnonzero(labels == cluster)
        nearest = members[np.argsort(distances[members], kind="stable")][:TYPICAL]
        typical.append([(ids[one], not stays[one]) for one in nearest.tolist()])
    return TrainingClusters(labels, np.bincount(labels, minlength=k), np.bincount(labels[stays], minlength=k), typical)
