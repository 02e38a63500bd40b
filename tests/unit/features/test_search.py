import pytest
import torch

from components.features import search
from components.features.search import top_k


@pytest.fixture
def vectors() -> torch.Tensor:
    found = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    return found / found.norm(dim=1, keepdim=True)


@pytest.fixture(params=[(7, 11), (64, 64), (2048, 8192)])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "QUERY_BLOCK", request.param[0])
    monkeypatch.setattr(search, "BASE_BLOCK", request.param[1])


@pytest.mark.usefixtures("_blocks")
def test_top_k_is_exact_whatever_the_blocks(vectors: torch.Tensor) -> None:
    values, positions = top_k(vectors[:20], vectors, 5)
    expected = (vectors[:20] @ vectors.T).topk(5)
    assert torch.equal(positions, expected.indices)
    assert torch.allclose(values, expected.values)


def test_top_k_returns_no_more_than_there_is(vectors: torch.Tensor) -> None:
    values, positions = top_k(vectors[:4], vectors[:3], 10)
    assert values.shape == positions.shape == (4, 3)
    assert top_k(vectors[:0], vectors, 3)[0].shape == (0, 3)
    assert top_k(vectors, vectors[:0], 3)[0].shape == (300, 0)
