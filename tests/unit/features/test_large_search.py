import sys

import numpy as np
import pytest
import torch

from components.errors import UserError
from components.features.large_search import ivf_top_k, nearest_hashes
from components.features.search import top_k


def clustered(rows: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(40, 24))
    vectors = centres[rng.integers(0, 40, rows)] + 0.5 * rng.normal(size=(rows, 24))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_all_cells_give_what_the_exact_search_gives() -> None:
    base = clustered(3000)
    found = ivf_top_k(base[:50], base, 5, probes=10_000)
    exact, positions = top_k(torch.from_numpy(base[:50]), torch.from_numpy(base), 5)
    assert found.recall == 1.0
    assert np.array_equal(found.positions, positions.numpy())
    assert found.similarity == pytest.approx(exact.numpy(), abs=1e-5)


def test_few_cells_lose_some_and_the_recall_says_how_many() -> None:
    base = clustered(6000)
    found = ivf_top_k(base, base, 10, probes=1)
    exact, _ = top_k(torch.from_numpy(base), torch.from_numpy(base), 10)
    whole = float((found.similarity >= exact[:, -1:].numpy() - 1e-5).mean())
    assert 0.2 < whole < 0.95
    assert found.recall == pytest.approx(whole, abs=0.05)


def test_the_same_vectors_give_the_same_answer_again() -> None:
    base = clustered(4000)
    first, again = (ivf_top_k(base, base, 5, probes=4) for _ in range(2))
    assert np.array_equal(first.positions, again.positions)
    assert np.array_equal(first.similarity, again.similarity)


def test_hashes_are_found_by_the_bits_in_which_they_differ() -> None:
    codes = np.random.default_rng(0).integers(0, 2**64, 500, dtype=np.uint64)
    queries = codes[:20] ^ np.uint64(0b101)
    distance, positions = nearest_hashes(queries, codes, 3)
    assert positions[:, 0].tolist() == list(range(20))
    assert distance[:, 0].tolist() == [2] * 20
    exact = np.sort(np.bitwise_count(queries[:, None] ^ codes[None]), axis=1)[:, :3]
    assert np.array_equal(distance, exact)


def test_without_faiss_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"selfsight\[faiss\]"):
        ivf_top_k(clustered(10), clustered(10), 1, probes=1)
