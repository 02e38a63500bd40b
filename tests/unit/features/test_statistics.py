"""Measures match their definitions."""

import pytest
import torch

from components.features.statistics import effective_rank, uniformity, wilson_interval


def test_wilson_matches_the_published_example() -> None:
    # Newcombe 1998, table I: 81 of 263, 95 %
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize("successes", [0, 10])
def test_wilson_stays_inside_and_is_never_empty(successes: int) -> None:
    low, high = wilson_interval(successes, 10)
    assert 0 <= low < high <= 1


def test_effective_rank_counts_directions() -> None:
    basis = torch.eye(50)[:8]
    assert effective_rank(basis.repeat(20, 1)) == pytest.approx(8, rel=1e-3)
    assert effective_rank(torch.ones(100, 16)) == pytest.approx(1, rel=1e-3)


def test_uniformity_falls_with_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(200, 8, generator=generator)
    assert uniformity(spread) < uniformity(spread * 0.1 + 1)
    assert uniformity(torch.ones(10, 4)) == pytest.approx(0, abs=1e-9)
