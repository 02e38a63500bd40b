import pytest
import torch

from components.objectives import measures


def test_entropy_is_log_k_for_uniform_rows_and_zero_for_certain_ones() -> None:
    assert measures.entropy(torch.full((3, 8), 1 / 8)).item() == pytest.approx(torch.tensor(8.0).log().item())
    assert measures.entropy(torch.eye(8)).item() == 0.0


def test_prototype_usage_counts_the_prototypes_that_are_used() -> None:
    assert measures.prototype_usage(torch.eye(8)).item() == pytest.approx(1.0)
    assert measures.prototype_usage(torch.eye(8)[:2].repeat(5, 1)).item() == pytest.approx(2 / 8)


def test_feature_std_is_zero_at_collapse_and_near_one_for_isotropic_features() -> None:
    generator = torch.Generator().manual_seed(0)
    assert measures.feature_std(torch.ones(16, 32)).item() == pytest.approx(0.0, abs=1e-6)
    assert measures.feature_std(torch.randn(512, 64, generator=generator)).item() == pytest.approx(1.0, abs=0.02)


def as_before(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Spread and rank from all rows and all singular values at once."""
    unit = torch.nn.functional.normalize(features.double(), dim=-1)
    values = torch.linalg.svdvals(features.double() - features.double().mean(dim=0))
    rank = measures.entropy((values / values.sum())[None]).exp()
    return unit.std(dim=0, correction=0).mean() * features.shape[1] ** 0.5, rank


@pytest.mark.parametrize(
    ("rows", "dim", "directions", "offset"),
    [(64, 32, 32, 30.0), (16, 48, 48, 0.0), (128, 384, 384, 30.0), (64, 48, 3, 0.0)],
    ids=["rows as wanted", "fewer rows than dim", "wide", "few directions"],
)
def test_measures_of_features_are_those_of_all_singular_values(
    rows: int, dim: int, directions: int, offset: float
) -> None:
    generator = torch.Generator().manual_seed(rows)
    steep = torch.randn(rows, directions, generator=generator) * torch.logspace(0, -4, directions)
    features = steep @ torch.randn(directions, dim, generator=generator) + offset
    spread, rank = as_before(features)
    assert measures.feature_std(features).item() == pytest.approx(spread.item(), rel=1e-5)
    assert measures.effective_rank(features).item() == pytest.approx(rank.item(), rel=1e-5)


def test_effective_rank_counts_directions() -> None:
    directions = torch.zeros(8, 16)
    directions[torch.arange(8), torch.arange(8) // 2] = torch.tensor([1.0, -1.0]).repeat(4)
    assert measures.effective_rank(directions).item() == pytest.approx(4.0, rel=1e-4)


def test_effective_rank_of_equal_rows_is_one() -> None:
    assert measures.effective_rank(torch.ones(8, 16)).item() == pytest.approx(1.0)


def test_F5_the_rank_of_features_that_are_no_numbers_is_none_instead_of_an_error() -> None:
    features = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    features[3, 2] = torch.nan
    assert measures.effective_rank(features).isnan()
    assert measures.feature_std(features).isnan()
