"""Cluster-based retrieval: queries vote for clusters of the images (DINOv2, section 3)."""

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field

from components.curation.clustering import Clusters, assign, default_count
from components.curation.hierarchy import share_out
from components.curation.queries import Brought
from components.parameters import Params


class VotesParams(Params):
    """How `clusters` retrieves."""

    clusters: int | None = Field(
        None,
        ge=1,
        description="k-means clusters of the kept images; null: one for 25 images, 4 √images where that is fewer. "
        "DINOv2 took 100,000",
    )
    least: int = Field(4, ge=1, description="queries of a set that must fall into a cluster for it to be drawn from")
    images: int = Field(10_000, ge=1, description="images drawn from a cluster at most, for one set")

    def count(self, images: int) -> int:
        """Clusters for a number of images."""
        return min(images, self.clusters or default_count(images))


def vote(
    clusters: Clusters,
    queries: Float[np.ndarray, "queries dim"],
    params: VotesParams,
    cap: int | None,
    generator: np.random.Generator,
) -> Brought:
    """Draw images from the clusters that the queries fall into.

    Args:
        clusters: of the images.
        queries: vectors.
        params: how many votes a cluster needs, and how many images it gives.
        cap: images at most; the clusters give alike.
        generator: of the draws.
    """
    device, kind = clusters.centroids.device, clusters.centroids.dtype
    k = len(clusters.centroids)
    labels, _ = assign(torch.from_numpy(queries).to(device, kind), clusters.centroids)
    voted = torch.bincount(labels, minlength=k).cpu().numpy() >= params.least
    members = clusters.labels.cpu().numpy()
    sizes = np.where(voted, np.minimum(np.bincount(members, minlength=k), params.images), 0)
    available = int(sizes.sum())
    shares = share_out(sizes, available if cap is None else cap, generator)
    order = generator.permutation(len(members))
    order = order[np.argsort(members[order], kind="stable")]
    starts = np.searchsorted(members[order], np.arange(k))
    rank = np.arange(len(order)) - starts[members[order]]
    return Brought(np.sort(order[rank < shares[members[order]]]), available, int(voted.sum()))
