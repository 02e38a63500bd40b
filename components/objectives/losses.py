"""DINO, iBOT and KoLeo losses as functions of logits, probabilities and features.

Every loss is normalised over the local batch, so that its mean over processes with equal local batches is the loss of
the global batch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

GLOBAL_VIEWS = 2
KOLEO_EPS = 1e-8


class _SoftCrossEntropy(torch.autograd.Function):
    """Cross-entropy against soft targets, keeping one float32 copy of the logits for the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, counts: Sequence[int], masses: Sequence[float], temperature: float
    ) -> Tensor:
        log_probabilities = F.log_softmax(logits.float() / temperature, dim=-1)
        losses = log_probabilities.new_empty(logits.shape[:-1])
        start = 0
        for target, count in zip(targets, counts, strict=True):
            part = log_probabilities[start : start + count]
            torch.sum(part * target, dim=-1, out=losses[start : start + count])
            start += count
        ctx.save_for_backward(log_probabilities, targets)
        ctx.counts, ctx.masses, ctx.temperature, ctx.dtype = counts, masses, temperature, logits.dtype
        return losses.neg_()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor | None, ...]:
        log_probabilities, targets = ctx.saved_tensors
        gradient = log_probabilities.exp()
        start = 0
        for target, count, mass in zip(targets, ctx.counts, ctx.masses, strict=True):
            part = gradient[start : start + count]
            if mass != 1.0:
                part.mul_(mass)
            part.sub_(target)
            start += count
        gradient.mul_((grads[0] / ctx.temperature)[..., None])
        return gradient.to(ctx.dtype), None, None, None, None


def soft_cross_entropy(
    logits: Float[Tensor, "views rows prototypes"],
    targets: Float[Tensor, "targets rows prototypes"],
    *,
    counts: Sequence[int],
    masses: Sequence[float],
    temperature: float,
) -> Float[Tensor, "views rows"]:
    """Cross-entropy of student logits against teacher probabilities, row by row.

    Args:
        logits: student logits, view after view; any float type, the loss is float32.
        targets: target i serves the next `counts[i]` views; no gradient flows into it.
        counts: views that each target serves; they add up to the views.
        masses: sum of each row of each target (1 for one distribution, 2 for the sum of two).
        temperature: student temperature.
    """
    apply: Callable[..., Tensor] = _SoftCrossEntropy.apply
    return apply(logits, targets, counts, masses, temperature)


def dino_loss(
    logits: Float[Tensor, "views batch prototypes"],
    teacher: Float[Tensor, "2 batch prototypes"],
    *,
    temperature: float,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """DINO loss: global crops against the other global view, local crops against both.

    Args:
        logits: student logits, the two global views first, then the local views.
        teacher: teacher probabilities of the two global views.
        temperature: student temperature.

    Returns:
        Global and local terms; their sum is the loss, in which each of the 2 + 2 x local terms has the same weight
        (1/18 with eight local crops).
    """
    local_views = len(logits) - GLOBAL_VIEWS
    terms = GLOBAL_VIEWS + GLOBAL_VIEWS * local_views
    targets = torch.stack([teacher[1], teacher[0], teacher[0] + teacher[1]])
    losses = soft_cross_entropy(
        logits, targets, counts=(1, 1, local_views), masses=(1.0, 1.0, 2.0), temperature=temperature
    )
    per_view = losses.mean(dim=1)
    return per_view[:GLOBAL_VIEWS].sum() / terms, per_view[GLOBAL_VIEWS:].sum() / terms


def ibot_loss(
    logits: Float[Tensor, "rows prototypes"],
    teacher: Float[Tensor, "rows prototypes"],
    weights: Float[Tensor, " rows"],
    *,
    crops: int,
    temperature: float,
) -> Float[Tensor, ""]:
    """iBOT loss over masked patches.

    Args:
        logits: student logits of the masked patches of all global crops.
        teacher: teacher probabilities of the same patches.
        weights: one over the number of masked patches of the patch's crop; 0 for a row that only pads.
        crops: number of global crops, unmasked ones included: the sum is divided by it.
        temperature: student temperature.
    """
    losses = soft_cross_entropy(logits[None], teacher[None], counts=(1,), masses=(1.0,), temperature=temperature)
    return (losses[0] * weights).sum() / crops


def koleo_loss(features: Float[Tensor, "groups members dim"]) -> Float[Tensor, ""]:
    """KoLeo regulariser (Sablayrolles et al. 2019): minus the log distance to the nearest neighbour in the group.

    Args:
        features: student class tokens after the norm, before the head; neighbours are looked for within a group.

    Raises:
        ValueError: when a group has one member only, which has no neighbour.
    """
    if features.shape[1] < 2:
        raise ValueError("KoLeo needs at least two images in a group")
    unit = F.normalize(features.float(), eps=KOLEO_EPS, dim=-1)
    with torch.no_grad():
        cosines = unit @ unit.transpose(1, 2)
        cosines.diagonal(dim1=1, dim2=2).fill_(-1.0)
        nearest = cosines.argmax(dim=-1, keepdim=True).expand_as(unit)
    distances = F.pairwise_distance(unit, unit.gather(1, nearest), eps=KOLEO_EPS)
    return -torch.log(distances + KOLEO_EPS).mean()
