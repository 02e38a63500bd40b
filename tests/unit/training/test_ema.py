from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from components.training.ema import MovingAverage
from components.training.layouts import Layout, Shard


class WholeLayout(Layout):
    """One process, weights computed with in a given precision, no DeepSpeed."""

    replicated = True

    def shard(self, name: str) -> Shard:
        weight = self.parameters[name].detach().float().flatten()
        return Shard(name, tuple(self.parameters[name].shape), 0, weight, {})

    def gradient(self, shard: Shard) -> Tensor:
        raise NotImplementedError

    def piece(self, name: str, like: Shard) -> Tensor:
        found: Tensor = self.parameters[name].data.view(-1)
        return found

    def refresh(self, written: Mapping[str, Shard]) -> None:
        self.refreshed = list(written)


def make(dtype: torch.dtype) -> tuple[WholeLayout, Shard, MovingAverage]:
    generator = torch.Generator().manual_seed(0)
    parameters = {
        "student.w": nn.Parameter(torch.randn(40, 5, generator=generator)),
        "teacher.w": nn.Parameter(torch.zeros(40, 5, dtype=dtype), requires_grad=False),
    }
    layout = WholeLayout(parameters, "cpu")
    shard = layout.shard("student.w")
    return layout, shard, MovingAverage(layout, [shard], [("student.w", "teacher.w")])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_average_is_exact_in_fp32_whatever_the_module_computes_in(dtype: torch.dtype) -> None:
    layout, shard, average = make(dtype)
    expected = shard.weight.double()
    for step in range(30):
        shard.weight.add_(torch.randn(200, generator=torch.Generator().manual_seed(step)), alpha=1e-2)
        expected = 0.999 * expected + 0.001 * shard.weight.double()
        average.update(0.999)
    (kept,) = average.averages.values()
    assert kept.dtype == torch.float32
    assert (kept.double() - expected).abs().max() < 1e-6
    assert torch.equal(layout.parameters["teacher.w"].data.view(-1), kept.to(dtype))
    assert layout.refreshed == ["teacher.w"]


def test_an_average_kept_in_bf16_would_lose_its_signal() -> None:
    _, shard, average = make(torch.bfloat16)
    start = shard.weight.clone()
    naive = shard.weight.bfloat16()
    for _ in range(30):
        shard.weight.add_(0.01)
        naive.lerp_(shard.weight.bfloat16(), 0.001)
        average.update(0.999)
    (kept,) = average.averages.values()
    moved = (kept - start).abs().mean()
    assert (naive.float() - start.bfloat16().float()).abs().mean() < 0.5 * moved


def test_the_average_starts_at_its_source_and_follows_at_momentum_zero() -> None:
    layout, shard, average = make(torch.float32)
    assert torch.equal(layout.parameters["teacher.w"].data.view(-1), shard.weight)
    shard.weight.mul_(2)
    average.update(1.0)
    assert not torch.equal(layout.parameters["teacher.w"].data.view(-1), shard.weight)
    average.update(0.0)
    assert torch.equal(layout.parameters["teacher.w"].data.view(-1), shard.weight)
