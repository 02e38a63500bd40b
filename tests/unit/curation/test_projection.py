import numpy as np
import pytest

from components.curation import projection
from components.curation.projection import principal_plane


def test_it_is_the_singular_value_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(200, 6)) * [9, 5, 2, 1, 1, 1]
    centred = vectors - vectors.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    wanted = centred @ directions[:2].T
    monkeypatch.setattr(projection, "BLOCK", 7)
    found = principal_plane(vectors.astype(np.float32))
    assert np.allclose(np.abs(found), np.abs(wanted), atol=1e-3)
    assert ((found**3).sum(axis=0) >= 0).all()


def test_one_dimension_lies_on_a_line() -> None:
    assert np.array_equal(principal_plane(np.array([[1.0], [3.0], [8.0]]))[:, 1], np.zeros(3))
