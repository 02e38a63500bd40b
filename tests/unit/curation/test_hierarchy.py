import numpy as np
import pytest
import torch

from components.curation.clustering import Clusters, kmeans
from components.curation.hierarchy import (
    BalancedParams,
    balanced_sample,
    default_levels,
    hierarchical_kmeans,
    nearest_of_each,
    share_out,
)
from tests.unit.curation.test_clustering import blobs, generator

LONG_TAIL = [2000, 400, 120, 60, 30, 20]


def entropy(counts: np.ndarray) -> float:
    """Of a distribution over its number of classes: 1 is even."""
    shares = counts / counts.sum()
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum() / np.log(len(counts)))


def plain_share(sizes: list[int], count: int) -> list[int]:
    """One at a time, round and round, without the remainder's draw."""
    shares = [0] * len(sizes)
    while sum(min(size, share + 1) for size, share in zip(sizes, shares, strict=True)) <= min(count, sum(sizes)):
        if shares == sizes:
            break
        shares = [min(size, share + 1) for size, share in zip(sizes, shares, strict=True)]
    return shares


@pytest.mark.parametrize("count", [0, 1, 7, 20, 33, 36, 100])
def test_shares_are_equal_as_far_as_sizes_allow_and_their_sum_is_exact(count: int) -> None:
    sizes = [1, 20, 0, 5, 10]
    shares = share_out(np.array(sizes), count, generator())
    assert shares.sum() == min(count, 36)
    assert (shares <= sizes).all()
    assert (shares - plain_share(sizes, count)).max(initial=0) <= 1
    assert (shares >= plain_share(sizes, count)).all()


def test_the_nearest_of_each_cluster_are_taken() -> None:
    labels, distances = torch.tensor([0, 1, 0, 0, 1]), torch.tensor([3.0, 1.0, 2.0, 1.0, 0.5])
    clusters = Clusters(torch.zeros(2, 1), labels, distances)
    assert nearest_of_each(clusters, 1).tolist() == [3, 4]
    assert nearest_of_each(clusters, 2).tolist() == [1, 2, 3, 4]
    assert nearest_of_each(clusters, 9).tolist() == [0, 1, 2, 3, 4]


def plain_hierarchy(points: np.ndarray, sizes: tuple[int, ...], resampling: int) -> list[np.ndarray]:
    """The paper's steps in float64, one at a time; the k-means itself is tested on its own."""
    draws, inputs, labels = generator(5), points, []
    for k in sizes:
        first = kmeans(torch.from_numpy(inputs), k, draws)
        assigned, centroids = first.labels.numpy(), first.centroids.numpy()
        for _ in range(resampling):
            own = np.linalg.norm(inputs - centroids[assigned], axis=1)
            picked = [
                one
                for cluster in range(len(centroids))
                for one in sorted(np.flatnonzero(assigned == cluster), key=lambda at: own[at])[: len(inputs) // (2 * k)]
            ]
            centroids = kmeans(torch.from_numpy(inputs[sorted(picked)]), k, draws).centroids.numpy()
            assigned = np.linalg.norm(inputs[:, None] - centroids[None], axis=2).argmin(axis=1)
            assert len(set(assigned)) == k, "this test's data leaves no centroid alone"
        labels.append(assigned)
        inputs = centroids
    return labels


def test_it_is_the_hierarchy_of_the_paper() -> None:
    points = np.random.default_rng(8).normal(size=(240, 4))
    found = hierarchical_kmeans(torch.from_numpy(points), (24, 4), 3, generator(5))
    plain = plain_hierarchy(points, (24, 4), 3)
    assert np.array_equal(found.labels(0), plain[0])
    assert np.array_equal(found.labels(1), plain[1][plain[0]])
    assert np.array_equal(found.labels(-1), found.labels(1))


def test_balanced_sampling_evens_out_an_imbalanced_mixture() -> None:
    points = blobs(LONG_TAIL, spread=0.15).float()
    truth = np.repeat(np.arange(len(LONG_TAIL)), LONG_TAIL)
    hierarchy = hierarchical_kmeans(points, (120, 12), 10, generator())
    drawn = balanced_sample(hierarchy, 300, generator(1))
    assert len(drawn) == len(set(drawn.tolist())) == 300
    chance = np.random.default_rng(0).choice(len(truth), 300, replace=False)
    balanced, uniform = (np.bincount(truth[rows], minlength=len(LONG_TAIL)) for rows in (drawn, chance))
    assert entropy(uniform) < 0.6
    assert entropy(balanced) > 0.8
    assert balanced.min() >= 5 * max(1, uniform.min())


def test_resampling_spreads_clusters_over_the_support() -> None:
    """A dense mode takes fewer of the clusters than by plain k-means."""
    points = blobs([3000, 100, 100], spread=0.2, dim=3).float()
    shares = []
    for resampling in (0, 10):
        found = hierarchical_kmeans(points, (60,), resampling, generator()).labels(0)
        shares.append(len(set(found[:3000].tolist())) / len(set(found.tolist())))
    assert shares[1] < shares[0] - 0.1


def test_the_seed_decides_the_sample() -> None:
    points = blobs([300, 30]).float()

    def drawn(seed: int) -> list[int]:
        draws = generator(seed)
        return balanced_sample(hierarchical_kmeans(points, (20, 4), 2, draws), 40, draws).tolist()

    assert drawn(0) == drawn(0) == sorted(drawn(0))
    assert drawn(0) != drawn(1)


def test_a_sample_larger_than_the_points_is_all_of_them() -> None:
    hierarchy = hierarchical_kmeans(blobs([10, 5]).float(), (4, 2), 1, generator())
    assert balanced_sample(hierarchy, 99, generator()).tolist() == list(range(15))


def test_levels_may_ask_for_more_clusters_than_there_are_inputs() -> None:
    found = hierarchical_kmeans(torch.zeros(5, 2), (9, 3), 2, generator())
    assert set(found.labels(0).tolist()) <= set(range(5))


def test_default_levels_fall() -> None:
    assert default_levels(10) == (1,)
    assert default_levels(3000) == (120, 12)
    assert default_levels(1_000_000) == (4000, 400, 40)


@pytest.mark.parametrize("levels", [(10, 10), (5, 10), (4, 0)])
def test_levels_that_do_not_fall_are_refused(levels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="fewer clusters than the one before"):
        BalancedParams(levels=levels)
