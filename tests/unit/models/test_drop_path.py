from dataclasses import replace

import pytest
import torch

from components.models.drop_path import DropPathRng, draw_kept, kept_count

WHOLE = DropPathRng(seed=1, step=7, first=0, images=32, group=8)


def as_global(kept: torch.Tensor, rng: DropPathRng) -> torch.Tensor:
    """Rows (view, local image) as view * 1000 + position in the global batch, sorted."""
    return (kept // rng.images * 1000 + kept % rng.images + rng.first).sort(dim=-1).values


def test_two_processes_together_keep_the_samples_that_one_keeps() -> None:
    one = draw_kept(WHOLE, [64, 128], depth=3, rate=0.3)
    halves = [replace(WHOLE, first=first, images=16) for first in (0, 16)]
    for kind, rows in enumerate([32, 64]):
        parts = [as_global(draw_kept(half, [32, 64], depth=3, rate=0.3)[kind], half) for half in halves]
        assert rows == halves[0].images * (2 if kind == 0 else 4)
        assert torch.equal(torch.cat(parts, dim=-1).sort(dim=-1).values, as_global(one[kind], WHOLE))


@pytest.mark.parametrize("change", [{"seed": 2}, {"step": 8}])
def test_another_seed_or_step_keeps_other_samples(change: dict[str, int]) -> None:
    before = draw_kept(WHOLE, [64], depth=1, rate=0.5)[0]
    assert not torch.equal(before, draw_kept(replace(WHOLE, **change), [64], depth=1, rate=0.5)[0])


def test_blocks_branches_groups_and_kinds_draw_differently() -> None:
    kept = draw_kept(replace(WHOLE, images=16), [32, 32], depth=2, rate=0.5)
    draws = [tuple(row.tolist()) for kind in kept for row in kind.flatten(0, 1)]
    assert len(set(draws)) == len(draws)
    first, second = (kept[0][0, 0][kept[0][0, 0] % 16 // 8 == group] % 8 for group in (0, 1))
    assert first.tolist() != second.tolist()


def test_kept_rows_are_sorted_and_distinct_and_as_many_as_stated() -> None:
    [kept] = draw_kept(WHOLE, [64], depth=4, rate=0.3)
    assert kept.shape == (4, 2, 4 * kept_count(16, 0.3))
    assert (kept.diff(dim=-1) > 0).all()
    assert 0 <= kept.min() <= kept.max() < 64


def test_every_row_is_kept_equally_often() -> None:
    counts = torch.zeros(64)
    for step in range(300):
        [kept] = draw_kept(replace(WHOLE, step=step), [64], depth=2, rate=0.5)
        counts += torch.bincount(kept.flatten(), minlength=64)
    assert (counts / 1200 - 0.5).abs().max() < 5 * (0.25 / 1200) ** 0.5


@pytest.mark.parametrize(("samples", "rate", "kept"), [(10, 0.0, 10), (10, 0.3, 7), (3, 0.4, 1), (1, 0.9, 1)])
def test_at_least_one_sample_is_kept(samples: int, rate: float, kept: int) -> None:
    assert kept_count(samples, rate) == kept


def test_a_batch_that_groups_do_not_divide_is_one_group() -> None:
    [kept] = draw_kept(replace(WHOLE, images=5), [10], depth=1, rate=0.5)
    assert kept.shape == (1, 2, 5)


def test_rows_that_are_no_multiple_of_the_images_are_refused() -> None:
    with pytest.raises(ValueError, match="33 crops of kind 0"):
        draw_kept(WHOLE, [33], depth=1, rate=0.5)
