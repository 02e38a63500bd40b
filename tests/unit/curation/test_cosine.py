import numpy as np
import pytest

from components.curation.candidates import Search
from components.curation.cosine import cosine_copies
from components.errors import UserError

EXACT = Search(exact_up_to=1000, probes=1)
INVERTED = Search(exact_up_to=10, probes=1000)


def unit(rows: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def with_copies(rows: int = 60, noise: float = 0.05) -> np.ndarray:
    """Image i and image i + rows are near."""
    one = unit(rows, 0)
    other = one + noise * unit(rows, 1)
    return np.concatenate([one, other / np.linalg.norm(other, axis=1, keepdims=True)]).astype(np.float32)


@pytest.mark.parametrize("search", [EXACT, INVERTED], ids=["exact", "faiss"])
def test_near_embeddings_are_copies_and_the_cosine_is_how_sure(search: Search) -> None:
    vectors = with_copies()
    found, recall = cosine_copies(vectors, np.zeros(120, bool), least=0.95, neighbours=4, search=search)
    assert found.pairs.tolist() == [[number, number + 60] for number in range(60)]
    assert found.agreement == pytest.approx((vectors[:60] * vectors[60:]).sum(axis=1), abs=1e-5)
    assert not found.mirrored.any()
    assert recall == 1.0


@pytest.mark.parametrize("search", [EXACT, INVERTED], ids=["exact", "faiss"])
def test_pairs_within_the_evaluation_part_are_left_out(search: Search) -> None:
    evaluation = np.zeros(120, bool)
    evaluation[[3, 63, 7]] = True
    found, _ = cosine_copies(with_copies(), evaluation, least=0.95, neighbours=4, search=search)
    pairs = found.pairs.tolist()
    assert [3, 63] not in pairs
    assert [7, 67] in pairs


def test_a_threshold_that_lets_everything_through_is_a_mistake() -> None:
    alike = with_copies(200, noise=0.0) * np.float32(0.0) + unit(1, 5)
    with pytest.raises(UserError, match="raise it"):
        cosine_copies(alike.astype(np.float32), np.zeros(400, bool), least=0.5, neighbours=4, search=EXACT)


@pytest.mark.parametrize("search", [EXACT, INVERTED], ids=["exact", "faiss"])
def test_all_leaks_of_one_evaluation_image_are_found(search: Search) -> None:
    vectors = np.concatenate([unit(1, 0), unit(1, 0) + 0.4 * unit(300, 1), unit(40, 2)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found, _ = cosine_copies(vectors, np.arange(341) == 0, least=0.9, neighbours=2, search=search)
    assert {(0, number) for number in range(1, 301)} <= {(one, other) for one, other in found.pairs.tolist()}
