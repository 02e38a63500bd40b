"""Linear probe: a grid of heads trained in one pass on frozen features (DINOv2, section 7.1 and appendix B.3)."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from components.evaluation.split import hash_share
from components.features.extraction import Features
from components.parameters import Params

REFERENCE_BATCH = 256
MOMENTUM = 0.9


class LinearParams(Params):
    """The linear probe. The best head is chosen on a part of the bank, never on the queries."""

    steps: int = Field(default=2000, ge=1, description="SGD steps; DINOv2 takes 12,500")
    batch_size: int = Field(default=256, ge=2, description="images a step")
    learning_rates: tuple[float, ...] = Field(
        default=(0.01, 0.05, 0.1, 0.5, 1.0), min_length=1, description="grid; each is scaled by batch_size / 256"
    )
    holdout: float = Field(default=0.2, gt=0, lt=1, description="share of the bank that chooses the head")


class Probe(NamedTuple):
    """The chosen head."""

    correct: Bool[Tensor, " queries"]
    """Whether each query is classified right."""
    learning_rate: float
    """Of the grid, before scaling."""
    blocks: int
    """Last blocks whose class tokens are its input: 1 or 4."""
    with_patches: bool
    """Whether the mean patch token is part of its input."""


def linear_probe(
    bank: Features,
    bank_labels: Int[Tensor, " bank"],
    bank_ids: tuple[str, ...],
    queries: Features,
    query_labels: Int[Tensor, " queries"],
    params: LinearParams,
    *,
    seed: int,
) -> Probe:
    """Trains heads over {last, last four} class tokens, with and without the mean patch, times the learning rates.

    Args:
        bank: features with labels.
        bank_labels: class numbers.
        bank_ids: ids of the bank, which decide by hash who chooses the head.
        queries: features that are asked about, once, by the chosen head.
        query_labels: class numbers.
        params: steps, batch and grid.
        seed: of the order of images and of the division of the bank.
    """
    chooses = torch.tensor([hash_share(one, seed) < params.holdout for one in bank_ids])
    if not chooses.any() or chooses.all():
        chooses = torch.arange(len(bank_ids)) % 5 == 0
    classes = int(max(bank_labels.max(), query_labels.max())) + 1
    best: tuple[float, Probe] | None = None
    for blocks in sorted({1, bank.cls.shape[1]}):
        for with_patches in (False, True):
            known, asked = _inputs(bank, blocks, with_patches), _inputs(queries, blocks, with_patches)
            mean, std = known[~chooses].mean(dim=0), known[~chooses].std(dim=0).clamp(min=1e-6)
            known, asked = (known - mean) / std, (asked - mean) / std
            weights, bias = _train(known[~chooses], bank_labels[~chooses], classes, params, seed)
            held_out = _right(known[chooses], weights, bias, bank_labels[chooses]).float().mean(dim=1)
            head = int(held_out.argmax())
            if best is None or held_out[head] > best[0]:
                correct = _right(asked, weights[head : head + 1], bias[head : head + 1], query_labels)[0]
                rate = params.learning_rates[head]
                best = float(held_out[head]), Probe(correct, rate, blocks, with_patches)
    assert best is not None
    return best[1]


def _inputs(features: Features, blocks: int, with_patches: bool) -> Float[Tensor, "images dim"]:
    parts = [features.cls[:, -blocks:].flatten(1)]
    return torch.cat([*parts, features.patch_mean], dim=1) if with_patches else parts[0]


def _train(
    x: Float[Tensor, "images dim"], labels: Int[Tensor, " images"], classes: int, params: LinearParams, seed: int
) -> tuple[Float[Tensor, "heads classes dim"], Float[Tensor, "heads classes"]]:
    """All learning rates at once, by SGD with momentum, no weight decay, cosine to zero."""
    heads, size = len(params.learning_rates), min(params.batch_size, len(x))
    scale = size / REFERENCE_BATCH
    peak = torch.tensor(params.learning_rates).view(-1, 1, 1) * scale
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(1, classes, x.shape[1], generator=generator).mul(0.01).repeat(heads, 1, 1)
    bias = torch.zeros(heads, classes)
    velocity, bias_velocity = torch.zeros_like(weights), torch.zeros_like(bias)
    order = torch.empty(0, dtype=torch.long)
    for step in range(params.steps):
        if len(order) < size:
            order = torch.randperm(len(x), generator=generator)
        rows, order = order[:size], order[size:]
        batch, target = x[rows], labels[rows]
        error = (torch.einsum("hcd,bd->hbc", weights, batch) + bias[:, None]).softmax(dim=-1)
        error[:, torch.arange(size), target] -= 1
        error /= size
        rate = peak * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / params.steps)))
        velocity.mul_(MOMENTUM).add_(torch.einsum("hbc,bd->hcd", error, batch))
        bias_velocity.mul_(MOMENTUM).add_(error.sum(dim=1))
        weights -= rate * velocity
        bias -= rate[:, :, 0] * bias_velocity
    return weights, bias


def _right(
    x: Float[Tensor, "images dim"],
    weights: Float[Tensor, "heads classes dim"],
    bias: Float[Tensor, "heads classes"],
    labels: Int[Tensor, " images"],
) -> Bool[Tensor, "heads images"]:
    logits = torch.einsum("hcd,bd->hbc", weights, x) + bias[:, None]
    return logits.argmax(dim=-1) == labels
