"""How far two registered pictures show the same."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from components.features.alignment import Aligned

TOLERANCE = 0.25
"""Difference, in deviations of luminance, up to which two pixels agree."""
PLAIN = 0.05
"""Weight of a pixel without edges against one with a step of one deviation a pixel."""
PATCH = 10
"""Side of a square, pixels of 32, that must not disagree as a whole: more than a badge or a line of text covers."""
PATCH_SHARE = 0.85
WINDOW = 7
"""Side of the windows of `local_correlation`, pixels."""
NOISE = 0.05
"""Deviation of luminance in a window that counts as noise."""


def agreement(aligned: Aligned, tolerance: float = TOLERANCE) -> Float[Tensor, " pairs"]:
    """Return how much of two pictures is the same, in [0, 1].

    It is the lesser of two shares of their common area: of the area itself, and of the area weighted by the edges of
    one of the two pictures, whichever agrees better. What lies over a copy adds edges to the copy, but the edges of
    the original are still found in it; where another thing stands in the same place, neither's edges are found. The
    common area is compared after a fit of saturation, and after smoothing over 3 × 3 pixels. A large patch that
    disagrees makes it 0.

    Args:
        aligned: registered pairs.
        tolerance: difference up to which two pixels agree, in deviations of luminance.
    """
    inside = aligned.inside.float()
    difference = _difference(aligned)
    smooth = _smooth(difference * inside[:, None]) / _smooth(inside[:, None]).clamp_min(1e-3)
    agrees = (smooth.square().sum(1).sqrt() < tolerance) * inside
    structure = [_weighted(agrees, _edges(planes[:, 0]) * inside) for planes in (aligned.outer, aligned.inner)]
    share = torch.minimum(_weighted(agrees, inside), torch.maximum(*structure))
    differs = (difference.square().sum(1).sqrt() >= tolerance) * inside
    return share.masked_fill(_other_thing(differs), 0.0)


def local_correlation(aligned: Aligned) -> Float[Tensor, " pairs"]:
    """Return how well fine structure matches, in [-1, 1].

    Normalised cross-correlation of luminance in every window of 7 × 7 pixels, averaged with the contrast of the window
    as weight. Where the coarse layout of two pictures agrees, as in two frames of one street, it tells whether they
    show the same moment.

    Args:
        aligned: registered pairs.
    """
    inside = aligned.inside[:, None].float()
    count = _window(inside).clamp_min(1e-3)
    first, second = aligned.inner[:, :1], aligned.outer[:, :1]
    means = [_window(one * inside) / count for one in (first, second)]
    variances = [
        (_window(one.square() * inside) / count - mean.square()).clamp_min(0.0)
        for one, mean in zip((first, second), means, strict=True)
    ]
    covariance = _window(first * second * inside) / count - means[0] * means[1]
    correlation = covariance / torch.sqrt((variances[0] + NOISE**2) * (variances[1] + NOISE**2))
    weight = torch.maximum(*variances).sqrt() * inside
    return (correlation * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1e-3)


def _window(planes: Float[Tensor, "n 1 side side"]) -> Float[Tensor, "n 1 side side"]:
    return F.avg_pool2d(planes, WINDOW, stride=1, padding=WINDOW // 2)


def _other_thing(differs: Float[Tensor, "n side side"]) -> Bool[Tensor, " n"]:
    """Whether the difference is a patch so large that it is no overlay."""
    rows = F.avg_pool2d(differs, (1, PATCH), stride=1)  # in two steps, which cost a fifth of one
    return F.avg_pool2d(rows, (PATCH, 1), stride=1).amax((1, 2)) >= PATCH_SHARE


def _difference(aligned: Aligned) -> Float[Tensor, "n 3 side side"]:
    """Difference of the planes, with the gain of the colours (saturation) that fits the pixels of like luminance."""
    luminance = aligned.inner[:, :1] - aligned.outer[:, :1]
    weight = aligned.inside[:, None] / (1.0 + (luminance / 0.3) ** 2) ** 2
    inner, outer = aligned.inner[:, 1:], aligned.outer[:, 1:]
    total = weight.sum((1, 2, 3), keepdim=True).clamp_min(1e-3)
    product = (weight * inner * outer).sum((1, 2, 3), keepdim=True) / total
    square = (weight * outer.square()).sum((1, 2, 3), keepdim=True) / total
    saturation = ((product + 0.05) / (square + 0.05)).clamp(0.5, 1.8)
    return torch.cat([luminance, inner - saturation * outer], dim=1)


def _weighted(agrees: Tensor, weight: Tensor) -> Float[Tensor, " n"]:
    return (agrees * weight).sum((1, 2)) / weight.sum((1, 2)).clamp_min(1e-3)


def _edges(luminance: Float[Tensor, "n side side"]) -> Float[Tensor, "n side side"]:
    down, across = torch.gradient(luminance, dim=(1, 2))
    return torch.hypot(down, across) + PLAIN


def _smooth(planes: Float[Tensor, "n planes side side"]) -> Float[Tensor, "n planes side side"]:
    return F.avg_pool2d(planes, 3, stride=1, padding=1)
