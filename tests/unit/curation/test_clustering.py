from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch

from components.curation import clustering
from components.curation.clustering import assign, default_count, kmeans, means, seeds


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def blobs(sizes: list[int], seed: int = 0, dim: int = 6, spread: float = 0.05) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    centres = np.eye(max(dim, len(sizes)))[: len(sizes)]
    parts = [
        centre + spread * rng.normal(size=(size, len(centre))) for centre, size in zip(centres, sizes, strict=True)
    ]
    return torch.from_numpy(np.concatenate(parts))


def plain_lloyd(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """k-means as in the book, to its fixed point; no cluster may become empty on the way."""
    while True:
        distances = ((points[:, None] - centroids[None]) ** 2).sum(axis=2)
        labels = distances.argmin(axis=1)
        moved = np.stack([points[labels == one].mean(axis=0) for one in range(len(centroids))])
        if np.array_equal(moved, centroids):
            return labels, centroids
        centroids = moved


def test_it_is_lloyd_from_its_seeds() -> None:
    points = torch.from_numpy(np.random.default_rng(3).normal(size=(300, 5)))
    start = points[seeds(points, 7, generator())].numpy()
    labels, centroids = plain_lloyd(points.numpy(), start)
    found = kmeans(points, 7, generator(), iterations=1000)
    assert np.array_equal(found.labels.numpy(), labels)
    assert np.allclose(found.centroids.numpy(), centroids, atol=1e-12)
    distances = ((points.numpy() - centroids[labels]) ** 2).sum(axis=1)
    assert np.allclose(found.distances.numpy(), distances, atol=1e-12)


def test_float32_on_blocks_of_any_size_gives_the_plain_assignment(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    points, centroids = rng.normal(size=(101, 16)), rng.normal(size=(23, 16))
    plain = ((points[:, None] - centroids[None]) ** 2).sum(axis=2)
    monkeypatch.setattr(clustering, "POINT_BLOCK", 7)
    monkeypatch.setattr(clustering, "CENTROID_BLOCK", 5)
    labels, distances = assign(torch.from_numpy(points).float(), torch.from_numpy(centroids).float())
    assert np.array_equal(labels.numpy(), plain.argmin(axis=1))
    assert np.allclose(distances.numpy(), plain.min(axis=1), rtol=1e-5)
    wanted = torch.stack([torch.from_numpy(points)[labels == one].mean(dim=0) for one in labels.unique()])
    assert torch.allclose(means(torch.from_numpy(points), labels, 23)[labels.unique()], wanted)


def test_separate_blobs_are_found_whatever_their_sizes() -> None:
    sizes = [400, 40, 4, 4, 90]
    labels = kmeans(blobs(sizes), 5, generator(), restarts=8).labels.numpy()
    truth = np.repeat(np.arange(5), sizes)
    assert len({(one, other) for one, other in zip(labels.tolist(), truth.tolist(), strict=True)}) == 5


def test_the_seed_decides() -> None:
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 4))).float()
    first, again, other = (kmeans(points, 9, generator(seed)).labels for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_seeds_are_different_points_also_when_several_are_drawn_a_round() -> None:
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(1500, 3)))
    drawn = seeds(points, 700, generator()).tolist()
    assert len(set(drawn)) == 700


def test_seeds_of_equal_points_are_different_points() -> None:
    assert sorted(seeds(torch.ones(6, 2), 6, generator()).tolist()) == list(range(6))


def test_no_cluster_is_empty_even_of_equal_points() -> None:
    points = torch.cat([torch.zeros(20, 3), torch.ones(1, 3)])
    found = kmeans(points, 5, generator())
    assert torch.bincount(found.labels, minlength=5).min() == 1
    assert float(found.distances.sum()) == 0.0


@pytest.mark.parametrize("k", [0, 4])
def test_more_clusters_than_points_are_refused(k: int) -> None:
    with pytest.raises(ValueError, match=f"3 points make no {k} clusters"):
        kmeans(torch.zeros(3, 2), k, generator())


def test_the_default_count_is_a_25th_of_a_small_set_and_grows_with_the_root_of_a_large_one() -> None:
    assert [default_count(points) for points in (1, 24, 250, 10_000)] == [1, 1, 10, 400]
    assert [default_count(points) for points in (40_000, 1_000_000, 744_000_000)] == [800, 4000, 109_105]


def test_seeding_and_passes_show_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str | None, int]] = []

    def recorded(items: Iterable[object], *, total: int, description: str | None, unit: str) -> Iterator[object]:
        shown.append((description, total))
        yield from items

    monkeypatch.setattr(clustering, "progress", recorded)
    plain = kmeans(blobs([20, 20]), 5, generator())
    told = kmeans(blobs([20, 20]), 5, generator(), description="k-means")
    assert shown == [(None, 5), (None, 50), ("k-means, seeds", 5), ("k-means", 50)]
    assert torch.equal(plain.labels, told.labels)
