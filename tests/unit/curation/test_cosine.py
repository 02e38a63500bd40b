import numpy as np
import pytest

from components.curation import cosine as module
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
    found, recall = cosine_copies(
        vectors, np.zeros((1, 120), bool), bounds=np.full(120, 0.95), neighbours=4, search=search
    )
    assert found.pairs.tolist() == [[number, number + 60] for number in range(60)]
    assert found.agreement == pytest.approx((vectors[:60] * vectors[60:]).sum(axis=1), abs=1e-5)
    assert not found.mirrored.any()
    assert recall == 1.0


@pytest.mark.parametrize("search", [EXACT, INVERTED], ids=["exact", "faiss"])
def test_pairs_within_the_evaluation_part_are_left_out(search: Search) -> None:
    evaluation = np.zeros(120, bool)
    evaluation[[3, 63, 7]] = True
    found, _ = cosine_copies(with_copies(), evaluation[None], bounds=np.full(120, 0.95), neighbours=4, search=search)
    pairs = found.pairs.tolist()
    assert [3, 63] not in pairs
    assert [7, 67] in pairs


def test_a_threshold_that_lets_everything_through_is_a_mistake() -> None:
    alike = with_copies(200, noise=0.0) * np.float32(0.0) + unit(1, 5)
    with pytest.raises(UserError, match="raise it"):
        cosine_copies(
            alike.astype(np.float32), np.zeros((1, 400), bool), bounds=np.full(400, 0.5), neighbours=4, search=EXACT
        )


def test_a_search_of_one_cell_finds_most_pairs_and_says_so() -> None:
    vectors = with_copies(2000, noise=0.4)
    search = Search(exact_up_to=100, probes=1)
    found, recall = cosine_copies(
        vectors, np.zeros((1, 4000), bool), bounds=np.full(4000, 0.8), neighbours=8, search=search
    )
    copies = {(number, number + 2000) for number in range(2000)}
    pairs = {(one, other) for one, other in found.pairs.tolist()}
    assert 0.1 < recall < 0.95
    assert 0.3 * len(copies) < len(pairs & copies) < len(copies)
    assert all(one < other for one, other in pairs)
    exact = np.einsum("pd,pd->p", vectors[found.pairs[:, 0]], vectors[found.pairs[:, 1]])
    assert np.allclose(found.agreement, exact, atol=1e-5)
    assert found.agreement.min() >= 0.8


@pytest.mark.parametrize("search", [EXACT, INVERTED], ids=["exact", "faiss"])
def test_all_leaks_of_one_evaluation_image_are_found(search: Search) -> None:
    vectors = np.concatenate([unit(1, 0), unit(1, 0) + 0.4 * unit(300, 1), unit(40, 2)])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found, _ = cosine_copies(vectors, np.arange(341)[None] == 0, bounds=np.full(341, 0.9), neighbours=2, search=search)
    assert {(0, number) for number in range(1, 301)} <= {(one, other) for one, other in found.pairs.tolist()}


def test_pairs_that_decide_nothing_are_no_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """200 evaluation frames of one camera, and 200 training images below their own threshold."""
    monkeypatch.setattr(module, "MOST", 2)
    frames, street = (unit(1, seed) + noise * unit(200, seed + 1) for seed, noise in ((0, 0.01), (5, 0.4)))
    vectors = np.concatenate([frames, street, street[:1]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    evaluation = np.arange(401) < 200
    bounds = np.where(evaluation, 0.7, 0.999)
    found, _ = cosine_copies(vectors, evaluation[None], bounds=bounds, neighbours=4, search=EXACT)
    assert found.pairs.tolist() == [[200, 400]]
