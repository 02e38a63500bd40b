"""Measures of spread, and how sure a score is."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

Z_95 = 1.959964
RANK_SAMPLE = 4096
BOOTSTRAP_DRAWS = 2000


class Interval(NamedTuple):
    """A 95 % confidence interval."""

    low: float
    high: float


def wilson_interval(successes: int, trials: int) -> Interval:
    """Interval of a share (Wilson 1927); stays inside 0..1 and is right for small numbers.

    Raises:
        ValueError: if there is no trial.
    """
    if trials < 1:
        raise ValueError("a share needs at least one trial")
    share = successes / trials
    squared = Z_95**2
    centre = (share + squared / (2 * trials)) / (1 + squared / trials)
    half = Z_95 * math.sqrt(share * (1 - share) / trials + squared / (4 * trials**2)) / (1 + squared / trials)
    return Interval(max(0.0, centre - half), min(1.0, centre + half))


def bootstrap_interval(values: Float[Tensor, " samples"], groups: Sequence[str], *, seed: int = 0) -> Interval:
    """Interval of a mean of samples that come in groups: groups are drawn with replacement (cluster bootstrap).

    Args:
        values: one number a sample.
        groups: group of each; samples of one group are not independent.
        seed: of the draws.

    Raises:
        ValueError: if there is no sample.
    """
    if not len(values):
        raise ValueError("a mean needs at least one sample")
    names = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    member = torch.tensor([names[group] for group in groups])
    sums = torch.zeros(len(names), dtype=torch.float64).index_add_(0, member, values.double())
    sizes = torch.bincount(member, minlength=len(names)).double()
    generator = torch.Generator().manual_seed(seed)
    means = torch.empty(BOOTSTRAP_DRAWS, dtype=torch.float64)
    for draw in range(BOOTSTRAP_DRAWS):
        drawn = torch.randint(len(names), (len(names),), generator=generator)
        means[draw] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(low, high)


def effective_rank(features: Float[Tensor, "images dim"]) -> float:
    """Exponential of the entropy of the normalised singular values (RankMe, Garrido et al. 2023, eq. 1).

    Args:
        features: not centred, as in the paper; the first 4,096 rows count.

    Returns:
        Between 1 and the smaller side.

    Raises:
        ValueError: if there are fewer than two images, which cannot be spread.
    """
    _require_two(features)
    values = torch.linalg.svdvals(features[:RANK_SAMPLE].double())
    shares = values / values.sum().clamp(min=1e-30) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def uniformity(features: Float[Tensor, "images dim"]) -> float:
    """Log mean Gaussian potential of pairs on the sphere (Wang & Isola 2020, t = 2); lower is more spread.

    Raises:
        ValueError: if there are fewer than two images, which make no pair.
    """
    _require_two(features)
    unit = torch.nn.functional.normalize(features[:RANK_SAMPLE].double(), dim=-1)
    distances = torch.pdist(unit).square()
    return float(torch.logsumexp(-2 * distances, dim=0) - math.log(len(distances)))


def _require_two(features: Float[Tensor, "images dim"]) -> None:
    if len(features) < 2:
        raise ValueError(f"spread needs at least two images, not {len(features)}")
