"""Alignment below a pixel of pictures that registration placed in each other.

Robust Gauss-Newton steps (Lucas and Kanade 1981; Baker and Matthews 2004) for place, scale, gain and offset.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from components.features.registration import Placement, Planes

ITERATIONS = 4
MAX_STEP, MAX_DRIFT = 0.06, 0.1
"""Largest change of scale and place of one step and altogether, in sides of the picture."""
FIRST_RESIDUAL, LAST_RESIDUAL = 0.6, 0.3
"""Residuals, in deviations of luminance, from which on a pixel counts as overlaid and loses its weight."""


@dataclass(frozen=True)
class Aligned:
    """Pairs laid over each other, in the frame of the inner picture."""

    placement: Placement
    outer: Planes
    """Warped; luminance in units of the inner picture's, `gain` and `bias` applied."""
    inner: Planes
    inside: Bool[Tensor, "n side side"]
    """Pixels that the outer picture covers."""
    gain: Float[Tensor, " n"]
    bias: Float[Tensor, " n"]


def align(planes: Planes, placement: Placement) -> Aligned:
    """Refine placements below a pixel, and the outer picture's gain and offset in luminance with them.

    Pixels that do not fit lose their weight (Geman and McClure), so that a badge or a line of text does not pull.

    Args:
        planes: contrast-normalised pictures, of any size.
        placement: where the pictures of each pair lie; its positions are those in `planes`.
    """
    outer = planes[placement.outer]
    inner = planes[placement.inner]
    inner = torch.where(placement.mirrored[:, None, None, None], inner.flip(-1), inner)
    count, side = len(outer), planes.shape[-1]
    at = (torch.arange(side, device=planes.device) + 0.5) / side
    scale, offset = placement.scale.clone(), placement.offset.clone()
    gain = torch.ones(count, 1, 1, device=planes.device)
    bias = torch.zeros(count, 1, 1, device=planes.device)
    damping = torch.diag(torch.tensor([0.01, 0.01, 0.01, 0.01, 1e-4, 1e-4], device=planes.device)) * side * side
    for step in range(ITERATIONS):
        tolerated = max(FIRST_RESIDUAL * 0.75**step, LAST_RESIDUAL)
        warped, inside = _warp(outer[:, :1], scale, offset)
        warped = warped[:, 0]
        residual = inner[:, 0] - gain * warped - bias
        weight = inside / (1.0 + (residual / tolerated) ** 2) ** 2
        down, across = torch.gradient(warped, dim=(1, 2))
        across, down = across * (side * gain / scale[:, 0, None, None]), down * (side * gain / scale[:, 1, None, None])
        slopes = torch.stack(
            [across * at, down * at[:, None], across, down, warped, torch.ones_like(warped)], dim=1
        ).flatten(2)
        weighted = slopes * weight.flatten(1)[:, None]
        curvature = weighted @ slopes.transpose(1, 2) + damping
        change = torch.linalg.solve(curvature, weighted @ residual.flatten(1)[:, :, None])[:, :, 0]
        moved = change[:, :4].clamp(-MAX_STEP, MAX_STEP)
        scale = _near(scale + moved[:, :2], placement.scale)
        offset = _near(offset + moved[:, 2:], placement.offset)
        gain = (gain + change[:, 4, None, None]).clamp(0.3, 3.0)
        bias = (bias + change[:, 5, None, None]).clamp(-2.0, 2.0)
    warped, inside = _warp(outer, scale, offset)
    warped = torch.cat([gain[:, None] * warped[:, :1] + bias[:, None], gain[:, None] * warped[:, 1:]], dim=1)
    refined = replace(placement, scale=scale, offset=offset)
    return Aligned(refined, warped, inner, inside, gain[:, 0, 0], bias[:, 0, 0])


def _near(value: Float[Tensor, "n 2"], start: Float[Tensor, "n 2"]) -> Float[Tensor, "n 2"]:
    return torch.maximum(torch.minimum(value, start + MAX_DRIFT), start - MAX_DRIFT)


def _warp(
    planes: Float[Tensor, "n planes side side"], scale: Float[Tensor, "n 2"], offset: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, "n planes side side"], Bool[Tensor, "n side side"]]:
    """Sample pictures at scale · u + offset, bilinear, and tell which points lie inside."""
    side = planes.shape[-1]
    at = (torch.arange(side, device=planes.device) + 0.5) / side
    places = scale[:, :, None] * at + offset[:, :, None]
    inside = (places >= 0.0) & (places <= 1.0)
    pixels = (places * side - 0.5).clamp(0, side - 1)
    weights = (1.0 - (pixels[..., None] - torch.arange(side, device=planes.device)).abs()).clamp_min(0.0)
    across, down = weights[:, 0], weights[:, 1]
    return down[:, None] @ planes @ across.transpose(1, 2)[:, None], inside[:, 1, :, None] & inside[:, 0, None, :]
