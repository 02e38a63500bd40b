"""Whether new images come from the distribution of older ones: a two-sample test, and what has changed.

The test is the maximum mean discrepancy with a Gaussian kernel (Gretton et al. 2012, lemma 6, the unbiased estimator)
against its permutation null. It is exact for exchangeable images; so of each group (video, instance) one image counts.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor

from components.curation.clustering import assign, kmeans
from components.features.search import top_k
from components.features.statistics import Interval, wilson_interval
from components.parameters import Params

FAR_QUANTILE = 0.99
BLOCK = 1024
"""Permutations of one matrix product."""
Vectors = Float[Tensor, "images dim"]


class DriftParams(Params):
    """When new images count as drift."""

    significance: float = Field(
        0.01, gt=0, lt=1, description="p-value at or below which there is drift: the share of false alarms"
    )
    permutations: int = Field(
        999, ge=99, le=99_999, description="draws of the null; the least p-value is 1 / (1 + permutations)"
    )
    images: int = Field(
        1024, ge=16, le=4096, description="images of each side at most; memory is about 80 × images² bytes"
    )
    min_images: int = Field(
        32, ge=16, description="independent images of each side, of fewer nothing is said; a group counts as one"
    )
    clusters: int = Field(16, ge=2, le=1024, description="clusters of the older images whose growth is shown")
    batch_size: int = Field(256, ge=1, description="images of one forward pass of the champion")
    seed: int = Field(0, ge=0, description="of the draw of images, of permutations and of clusters")

    @model_validator(mode="after")
    def _can_be_decided(self) -> Self:
        """No drift could be found with too few permutations, and nothing be compared with too few images."""
        if 1 / (1 + self.permutations) > self.significance:
            least = math.ceil(1 / self.significance) - 1
            raise ValueError(
                f"with {self.permutations} permutations no p-value is as low as significance {self.significance}: set "
                f"permutations to {least} or more, or raise significance"
            )
        if self.min_images > self.images:
            raise ValueError(
                f"images {self.images} is below min_images {self.min_images}: raise images, or lower min_images"
            )
        return self


@dataclass(frozen=True)
class ClusterGrowth:
    """A cluster of the older images."""

    before: float
    """Its share of the older images."""
    now: float
    """Its share of the new ones."""

    @property
    def factor(self) -> float:
        """By how much its share has grown; infinite where it held none."""
        return self.now / self.before if self.before else math.inf


@dataclass(frozen=True)
class DriftReport:
    """What comparing new images with older ones came to."""

    p_value: float
    """Of the hypothesis that both are draws of one distribution, in (0, 1]."""
    significance: float
    mmd: float
    """Unbiased estimate of the squared maximum mean discrepancy; may be below 0."""
    null: tuple[float, ...]
    """The same under permutations, sorted."""
    far: float
    """Share of the new images farther from their nearest older image than 99 % of the older ones are from theirs."""
    far_interval: Interval
    far_distance: float
    """That distance, Euclidean, between vectors of unit length."""
    clusters: tuple[ClusterGrowth, ...]
    """By growth, the largest first."""
    distances: tuple[float, ...]
    """From each new image to the nearest older one, in their order."""
    usual_distances: tuple[float, ...]
    """From each older image to the nearest other one."""

    @property
    def is_drift(self) -> bool:
        """The decision."""
        return self.p_value <= self.significance

    def metrics(self) -> dict[str, float]:
        """The report in flat numbers."""
        grown = max((one.factor for one in self.clusters), default=1.0)
        return {
            "p_value": self.p_value,
            "drift": float(self.is_drift),
            "mmd": self.mmd,
            "far": self.far,
            "far.low": self.far_interval.low,
            "far.high": self.far_interval.high,
            "far_distance": self.far_distance,
            "largest_growth": grown,
        }

    def __str__(self) -> str:
        verdict = "drift" if self.is_drift else "no drift"
        return f"{verdict}, p = {self.p_value:.3g}"


def draw(ids: Sequence[str], groups: Sequence[str | None], count: int, seed: int) -> list[str]:
    """Draws up to `count` groups by hash, and of each one image, so that new images change few of those drawn.

    A group is drawn by its name, so that a long clip is drawn no sooner than a single image.

    Args:
        ids: images.
        groups: group of each; None: it is its own.
        count: images at most.
        seed: of the draw.

    Returns:
        Ids, sorted.
    """
    members: dict[str, list[str]] = {}
    for one, group in zip(ids, groups, strict=True):
        members.setdefault(f"image:{one}" if group is None else f"group:{group}", []).append(one)

    def rank(name: str) -> bytes:
        return hashlib.sha256(f"drift:{seed}:{name}".encode()).digest()

    return sorted(min(members[name], key=rank) for name in sorted(members, key=rank)[:count])


def measure_drift(older: Vectors, newer: Vectors, params: DriftParams) -> DriftReport:
    """Compares two sets of images.

    Args:
        older: vectors of unit length of images that are independent of each other.
        newer: the same of others, none of which is among the older.
        params: test and pictures.

    Returns:
        A pure function of the arguments, up to the order of sums.

    Raises:
        ValueError: if there are fewer than two images on a side.
    """
    observed, null = mmd_test(older, newer, permutations=params.permutations, seed=params.seed)
    usual = _nearest(older, older, skip_self=True)
    distances = _nearest(newer, older, skip_self=False)
    limit = float(torch.quantile(usual, FAR_QUANTILE))
    far = int((distances > limit).sum())
    return DriftReport(
        p_value=(1 + int((null >= observed).sum())) / (1 + len(null)),
        significance=params.significance,
        mmd=observed,
        null=tuple(null.sort().values.tolist()),
        far=far / len(newer),
        far_interval=wilson_interval(far, len(newer)),
        far_distance=limit,
        clusters=cluster_growth(older, newer, params.clusters, seed=params.seed),
        distances=tuple(distances.tolist()),
        usual_distances=tuple(usual.tolist()),
    )


def mmd_test(
    older: Vectors, newer: Vectors, *, permutations: int, seed: int
) -> tuple[float, Float[Tensor, " permutations"]]:
    """Squared maximum mean discrepancy, unbiased, and its values when the images are dealt out anew.

    The kernel is exp(-d² / 2σ²), σ the median distance of all pairs. Many permutations are one matrix product: with W a
    column of ones and zeros for each, the sums within and between the sides follow from W'KW.

    Args:
        older: one sample.
        newer: the other.
        permutations: number of draws.
        seed: of them.

    Raises:
        ValueError: if there are fewer than two images on a side.
    """
    n, m = len(older), len(newer)
    if min(n, m) < 2:
        raise ValueError(f"two images of each side are needed, not {n} and {m}")
    kernel = _kernel(torch.cat([older, newer]).double())
    generator = torch.Generator().manual_seed(seed)
    observed = _discrepancy(kernel, torch.arange(n)[None])
    null = []
    for start in range(0, permutations, BLOCK):
        count = min(BLOCK, permutations - start)
        dealt = torch.stack([torch.randperm(n + m, generator=generator)[:n] for _ in range(count)])
        null.append(_discrepancy(kernel, dealt))
    return float(observed[0]), torch.cat(null)


def _discrepancy(kernel: Float[Tensor, "all all"], chosen: Int[Tensor, "draws n"]) -> Float[Tensor, " draws"]:
    """The estimate for each way to choose one side."""
    (draws, n), m = chosen.shape, len(kernel) - chosen.shape[1]
    side = torch.zeros(len(kernel), draws, dtype=kernel.dtype).scatter_(0, chosen.T, 1.0)
    sums = kernel @ side
    within = (side * sums).sum(0)
    between = sums.sum(0) - within
    rest = kernel.sum() - within - 2 * between
    # the diagonal, all ones, is no pair
    values = (within - n) / (n * (n - 1)) + (rest - m) / (m * (m - 1)) - 2 * between / (n * m)
    return values.round(decimals=12)  # equal draws must tie, whatever the order of their sums


def _kernel(vectors: Float[Tensor, "all dim"]) -> Float[Tensor, "all all"]:
    norms = vectors.square().sum(1)
    squared = (norms[:, None] + norms - 2 * vectors @ vectors.T).clamp_(min=0).fill_diagonal_(0)
    pairs = squared[torch.ones(squared.shape, dtype=torch.bool).triu(1)]
    # where more than half of the pairs are equal, any scale of the others will do
    scale = float(pairs.median()) or float(pairs.max()) or 1.0
    return squared.div_(-2 * scale).exp_()


def cluster_growth(older: Vectors, newer: Vectors, clusters: int, *, seed: int) -> tuple[ClusterGrowth, ...]:
    """Share of both sets in each cluster (k-means) of the older one, the fastest growing cluster first."""
    found = kmeans(older, min(clusters, len(older)), np.random.default_rng(seed))
    k = len(found.centroids)
    before, now = (
        (torch.bincount(labels, minlength=k).double() / len(labels)).tolist()
        for labels in (found.labels, assign(newer, found.centroids)[0])
    )
    growth = [ClusterGrowth(*shares) for shares in zip(before, now, strict=True)]
    return tuple(sorted(growth, key=lambda one: (-one.factor, -one.now)))


def _nearest(queries: Vectors, base: Vectors, *, skip_self: bool) -> Float[Tensor, " queries"]:
    """Euclidean distance of unit vectors to the nearest of the base."""
    similarity, _ = top_k(queries, base, 2 if skip_self else 1)
    return (2 - 2 * similarity[:, -1].double()).clamp(min=0).sqrt()


def describe_growth(clusters: Sequence[ClusterGrowth], shown: int = 3) -> list[str]:
    """The clusters that have grown most, in words."""
    return [
        f"cluster of {100 * one.before:.1f} % of the older images: {100 * one.now:.1f} % of the new ones"
        for one in clusters[:shown]
        if one.now > one.before
    ]
