"""How far two registered pictures show the same."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from components.features.registration import Aligned

TOLERANCE = 0.22
"""Difference, in deviations of luminance, up to which two pixels agree."""
PLAIN = 0.05
"""Weight of a pixel without edges against one with a step of one deviation a pixel."""


@dataclass(frozen=True)
class Agreement:
    """What is compared of registered pairs."""

    share: Float[Tensor, " pairs"]
    """Of the common area that agrees, in [0, 1]."""
    structure: Float[Tensor, " pairs"]
    """The same, pixels weighted by the edges of one picture; the better of the two.

    What lies over a copy adds edges to the copy, but the edges of the original are still found in it; where another
    thing stands in the same place, neither's edges are found."""
    contained: Float[Tensor, " pairs"]
    """Share of the inner picture that the outer one covers."""
    stretch: Float[Tensor, " pairs"]
    """Logarithm of the ratio of the scales across and down, absolute."""
    bias: Float[Tensor, " pairs"]
    """Offset of luminance, in deviations, absolute."""
    tint: Float[Tensor, " pairs"]
    """Difference of the mean hues, in deviations of luminance."""


def agreement(aligned: Aligned, tolerance: float = TOLERANCE) -> Agreement:
    """Compare pairs in the frame of their inner picture.

    Args:
        aligned: registered pairs.
        tolerance: difference up to which two pixels agree, in deviations of luminance.
    """
    inside = aligned.inside.float()
    covered = inside.sum((1, 2)).clamp_min(1.0)
    difference, tint = _difference(aligned)
    smooth = _smooth(difference * inside[:, None]) / _smooth(inside[:, None]).clamp_min(1e-3)
    agrees = (smooth.square().sum(1).sqrt() < tolerance) * inside
    structure = [_weighted(agrees, _edges(planes[:, 0]) * inside) for planes in (aligned.outer, aligned.inner)]
    scale = aligned.placement.scale
    return Agreement(
        share=agrees.sum((1, 2)) / covered,
        structure=torch.maximum(*structure),
        contained=inside.mean((1, 2)),
        stretch=(scale[:, 0] / scale[:, 1]).log().abs(),
        bias=aligned.bias.abs(),
        tint=tint,
    )


def _difference(aligned: Aligned) -> tuple[Float[Tensor, "n 3 side side"], Float[Tensor, " n"]]:
    """Difference of the planes, with one gain for the colours (saturation) that fits the pixels that agree."""
    luminance = aligned.inner[:, :1] - aligned.outer[:, :1]
    weight = aligned.inside[:, None] / (1.0 + (luminance / 0.3) ** 2) ** 2
    total = weight.sum((1, 2, 3), keepdim=True).clamp_min(1e-3)
    inner, outer = aligned.inner[:, 1:], aligned.outer[:, 1:]
    product = (weight * inner * outer).sum((1, 2, 3), keepdim=True) / total
    square = (weight * outer.square()).sum((1, 2, 3), keepdim=True) / total
    saturation = ((product + 0.05) / (square + 0.05)).clamp(0.5, 1.8)
    tint = ((weight * (inner - outer)).sum((2, 3)) / total[:, :, 0, 0]).norm(dim=1)
    return torch.cat([luminance, inner - saturation * outer], dim=1), tint


def _weighted(agrees: Tensor, weight: Tensor) -> Float[Tensor, " n"]:
    return (agrees * weight).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1e-3)


def _edges(luminance: Float[Tensor, "n side side"]) -> Float[Tensor, "n side side"]:
    down, across = torch.gradient(luminance, dim=(1, 2))
    return torch.hypot(down, across) + PLAIN


def _smooth(planes: Float[Tensor, "n planes side side"]) -> Float[Tensor, "n planes side side"]:
    return F.avg_pool2d(planes, 3, stride=1, padding=1)
