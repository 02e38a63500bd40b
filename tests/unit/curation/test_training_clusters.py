import numpy as np

from components.curation.clusters import TYPICAL, training_clusters
from tests.unit.curation.test_clustering import blobs


def test_sizes_before_and_after_and_typical_images() -> None:
    vectors = blobs([60, 40]).float().numpy()
    ids = [f"{number:03d}" for number in range(100)]
    stays = np.arange(100) % 3 > 0
    found = training_clusters(ids, vectors, stays, 2, 0)
    large = int(np.argmax(found.before))
    assert sorted(found.before.tolist()) == [40, 60]
    assert found.after[large] == stays[:60].sum()
    assert found.after.sum() == stays.sum()
    mean = vectors[:60].mean(axis=0)
    nearest = np.argsort(((vectors[:60] - mean) ** 2).sum(axis=1), kind="stable")[:TYPICAL]
    assert found.typical[large] == [(ids[one], not stays[one]) for one in nearest]


def test_few_images_make_few_clusters() -> None:
    vectors = blobs([12, 11]).float().numpy()
    assert len(training_clusters([str(n) for n in range(23)], vectors, np.ones(23, bool), 16, 0).before) == 2
