import pytest
import torch

from components.errors import UserError
from components.features import near_pairs as module
from components.features.near_pairs import Wanted, near_pairs


def unit(rows: int, seed: int = 0, dim: int = 8) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)), dim=1)


def by_hand(vectors: torch.Tensor, threshold: float) -> list[list[int]]:
    near = torch.triu(vectors @ vectors.T >= threshold, diagonal=1)
    pairs: list[list[int]] = near.nonzero().tolist()
    return pairs


@pytest.mark.parametrize("block", [7, 64, 512])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_pair_that_reaches_the_threshold_is_found_once(
    block: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    vectors = unit(150)
    found = near_pairs(vectors, 0.7, threads=threads)
    assert len(found.pairs) > 100
    assert found.pairs.tolist() == by_hand(vectors, 0.7)
    exact = (vectors[found.pairs[:, 0]] * vectors[found.pairs[:, 1]]).sum(dim=1)
    assert torch.allclose(found.similarity, exact, atol=1e-6)


def test_the_number_of_threads_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 32)
    vectors = unit(200, dim=48)
    one, three = near_pairs(vectors, 0.2, threads=1), near_pairs(vectors, 0.2, threads=3)
    assert torch.equal(one.pairs, three.pairs)
    assert torch.equal(one.similarity, three.similarity)


def test_a_pair_on_the_threshold_counts() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.5, 0.0], [0.25, 0.0]])
    assert near_pairs(vectors, 0.5).pairs.tolist() == [[0, 1]]


def test_nothing_near_and_nothing_at_all_give_no_pairs() -> None:
    for vectors in (unit(20), unit(1), unit(0)):
        found = near_pairs(vectors, 1.1)
        assert found.pairs.shape == (0, 2)
        assert found.similarity.shape == (0,)


def test_more_pairs_than_admitted_name_the_remedy() -> None:
    with pytest.raises(UserError, match=r"more than 5 pairs of 40 vectors.*raise it"):
        near_pairs(unit(40), -1.0, most=5)
    assert len(near_pairs(unit(4), -1.0, most=6).pairs) == 6


def test_each_vector_has_its_bound_and_two_that_are_set_aside_are_no_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", 16)
    vectors, aside = unit(90), torch.arange(90) % 3 == 0
    bounds = torch.where(aside, 0.5, 0.8)
    needed = torch.minimum(bounds[:, None], bounds[None])
    near = torch.triu((vectors @ vectors.T >= needed) & ~(aside[:, None] & aside[None]), diagonal=1)
    found = near_pairs(vectors, Wanted(bounds, aside))
    assert found.pairs.tolist() == near.nonzero().tolist()
    assert len(near_pairs(vectors, Wanted(bounds, aside), most=len(found.pairs)).pairs) == len(found.pairs)


def test_too_many_pairs_are_noticed_before_they_take_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the block that has them: not when the strip is done, which on a GPU is out of memory by then."""
    columns: list[int] = []
    counting = module._counting

    def recorded(similarity: torch.Tensor, rows: torch.Tensor, which: slice, wanted: Wanted) -> torch.Tensor:
        columns.append(which.start)
        return counting(similarity, rows, which, wanted)

    monkeypatch.setattr(module, "BLOCK", 8)
    monkeypatch.setattr(module, "_counting", recorded)
    with pytest.raises(UserError, match="more than 50 pairs of 80 vectors"):
        near_pairs(unit(80), -1.0, most=50, threads=1)
    assert columns[:2] == [0, 8], "28 pairs are admitted, 64 more are not"
    assert columns[2:] == list(range(8, 80, 8))[: len(columns) - 2], "others stop at their first block"


def test_the_threads_of_torch_are_what_they_were() -> None:
    before = torch.get_num_threads()
    near_pairs(unit(10), 0.5, threads=2)
    assert torch.get_num_threads() == before
