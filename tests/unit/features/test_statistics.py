"""Measures match their definitions."""

import pytest
import torch

from components.features.statistics import bootstrap_interval, effective_rank, uniformity, wilson_interval


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


@pytest.mark.parametrize("images", [0, 1])
def test_what_needs_several_images_says_so(images: int) -> None:
    for measure in (effective_rank, uniformity):
        with pytest.raises(ValueError, match=f"at least two images, not {images}"):
            measure(torch.ones(images, 4))


def test_uniformity_falls_with_spread() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(200, 8, generator=generator)
    assert uniformity(spread) < uniformity(spread * 0.1 + 1)
    assert uniformity(torch.ones(10, 4)) == pytest.approx(0, abs=1e-9)


def test_the_bootstrap_of_single_samples_agrees_with_wilson() -> None:
    right = torch.zeros(400)
    right[:120] = 1
    found = bootstrap_interval(right, [str(n) for n in range(400)])
    assert found == pytest.approx(wilson_interval(120, 400), abs=0.01)


def test_samples_that_come_in_groups_make_the_interval_wider() -> None:
    right = (torch.arange(40) % 3 == 0).float().repeat_interleave(10)
    alone = bootstrap_interval(right, [str(n) for n in range(400)])
    grouped = bootstrap_interval(right, [str(n // 10) for n in range(400)])
    width = grouped.high - grouped.low
    # ten samples that always agree are worth one
    assert width == pytest.approx((alone.high - alone.low) * 10**0.5, rel=0.15)


def test_the_bootstrap_is_the_same_every_time_and_never_leaves_the_range() -> None:
    right = torch.tensor([1.0, 1.0, 1.0])
    assert bootstrap_interval(right, ["a", "a", "b"]) == (1.0, 1.0)
    mixed = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
    groups = ["a", "a", "b", "c", "c"]
    assert bootstrap_interval(mixed, groups) == bootstrap_interval(mixed, groups)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval(torch.zeros(0), [])
