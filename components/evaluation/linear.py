"""Linear probe: a grid of heads trained in one pass on frozen features (DINOv2, section 7.1 and appendix B.3)."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor

from components.evaluation.split import drawn_groups
from components.features.extraction import Features
from components.parameters import Params

REFERENCE_BATCH = 256
MOMENTUM = 0.9
INITIAL_STD = 0.01
SMALL_STEP = 1 << 27
"""Multiplications of a step below which a second thread costs more than it brings (measured: up to ten times)."""


class LinearParams(Params):
    """The linear probe. The best head is chosen on a part of the bank, never on the queries."""

    steps: int = Field(default=2000, ge=1, description="SGD steps; DINOv2 takes 12,500")
    batch_size: int = Field(default=256, ge=2, description="images a step")
    learning_rates: tuple[float, ...] = Field(
        default=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
        min_length=1,
        description="grid; each is scaled by batch_size / 256",
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
    bank_keys: Sequence[str],
    queries: Features,
    query_labels: Int[Tensor, " queries"],
    params: LinearParams,
    *,
    seed: int,
) -> Probe:
    """Trains heads over {last, last four} class tokens, with and without the mean patch, times the learning rates.

    Inputs are standardised by mean and deviation of the images that are trained on, so that one grid of learning rates
    fits every backbone; the official code has no such step and a longer grid.

    Args:
        bank: features with labels.
        bank_labels: class numbers.
        bank_keys: group of each image of the bank, or its id: by its hash it trains heads or chooses among them.
        queries: features that are asked about, once, by the chosen head.
        query_labels: class numbers.
        params: steps, batch and grid.
        seed: of the order of images and of the division of the bank.
    """
    chooses = _choosers(bank_keys, params.holdout, seed)
    trains = ~chooses
    classes = int(max(bank_labels.max(), query_labels.max())) + 1
    best: tuple[float, Probe] | None = None
    for blocks in sorted({1, bank.cls.shape[1]}):
        for with_patches in (False, True):
            known = _inputs(bank, blocks, with_patches)
            mean, std = known[trains].mean(dim=0), known[trains].std(dim=0, correction=0).clamp(min=1e-6)
            known = (known - mean) / std
            heads = _train(known[trains], bank_labels[trains], classes, params, seed)
            held_out = _right(known[chooses], heads, bank_labels[chooses]).float().mean(dim=1)
            number = int(held_out.argmax())
            if best is None or held_out[number] > best[0]:
                asked = (_inputs(queries, blocks, with_patches) - mean) / std
                correct = _right(asked, heads, query_labels)[number]
                probe = Probe(correct, params.learning_rates[number], blocks, with_patches)
                best = float(held_out[number]), probe
    assert best is not None
    return best[1]


def _choosers(keys: Sequence[str], share: float, seed: int) -> Bool[Tensor, " bank"]:
    """Which images of the bank choose the head: whole groups, neither none nor all.

    A bank that is one group, and so cannot be divided by groups, is divided by images.
    """
    if len(set(keys)) == 1:
        keys = [f"{key}:{number}" for number, key in enumerate(keys)]
    chosen = drawn_groups(keys, share, purpose="probe", seed=seed)
    return torch.tensor([key in chosen for key in keys])


def _inputs(features: Features, blocks: int, with_patches: bool) -> Float[Tensor, "images dim"]:
    parts = [features.cls[:, -blocks:].flatten(1)]
    return torch.cat([*parts, features.patch_mean], dim=1) if with_patches else parts[0]


class _Heads(NamedTuple):
    """One linear classifier for each learning rate, side by side."""

    weights: Float[Tensor, "dim heads_classes"]
    bias: Float[Tensor, " heads_classes"]
    classes: int


def _train(
    x: Float[Tensor, "images dim"], labels: Int[Tensor, " images"], classes: int, params: LinearParams, seed: int
) -> _Heads:
    """All learning rates at once, by SGD with momentum, no weight decay, cosine to zero."""
    count, size = len(params.learning_rates), min(params.batch_size, len(x))
    peak = torch.tensor(params.learning_rates).repeat_interleave(classes) * (size / REFERENCE_BATCH)
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(x.shape[1], classes, generator=generator).mul_(INITIAL_STD).repeat(1, count)
    bias = torch.zeros(count * classes)
    velocity, bias_velocity = torch.zeros_like(weights), torch.zeros_like(bias)
    target = torch.nn.functional.one_hot(labels, classes).float()
    with _few_threads(size * weights.numel()):
        for step, rows in zip(range(params.steps), _batches(len(x), size, generator), strict=False):
            batch = x[rows]
            logits = torch.addmm(bias, batch, weights).view(size, count, classes)
            error = (logits.softmax(dim=-1) - target[rows, None]).div_(size).flatten(1)
            rate = peak * (0.5 * (1 + math.cos(math.pi * step / params.steps)))
            velocity.addmm_(batch.T, error, beta=MOMENTUM)
            bias_velocity.mul_(MOMENTUM).add_(error.sum(dim=0))
            weights.addcmul_(velocity, rate.expand_as(velocity), value=-1)
            bias.addcmul_(bias_velocity, rate, value=-1)
    return _Heads(weights, bias, classes)


def _batches(count: int, size: int, generator: torch.Generator) -> Iterator[Int[Tensor, " batch"]]:
    """Endless passes over the images, each in another order; what does not fill a batch is left out of its pass."""
    while True:
        order = torch.randperm(count, generator=generator)
        yield from (rows for rows in torch.split(order, size) if len(rows) == size)


@contextmanager
def _few_threads(multiplications: int) -> Iterator[None]:
    """One thread for small steps."""
    before = torch.get_num_threads()
    if multiplications < SMALL_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _right(
    x: Float[Tensor, "images dim"], heads: _Heads, labels: Int[Tensor, " images"]
) -> Bool[Tensor, "heads images"]:
    logits = torch.addmm(heads.bias, x, heads.weights).view(len(x), -1, heads.classes)
    return (logits.argmax(dim=-1) == labels[:, None]).T
