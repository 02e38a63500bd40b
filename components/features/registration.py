"""Registration: where one picture lies within another, if it is a mirrored, scaled or cropped copy of it.

A coarse search by normalised cross-correlation over mirroring, scale and place, exact on its grid, followed by a few
robust Gauss-Newton steps (Lucas and Kanade 1981; Baker and Matthews 2004) for place, scale, gain and offset.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

COARSE = 24
"""Side of the pictures of the coarse search, pixels."""
CROPS = (24, 22, 20, 18)
"""Sides of the crops that are looked for, of `COARSE`."""
GROUP = 16
"""Pictures looked for in one picture at a time."""
CHUNK = 512
ITERATIONS = 4
MAX_STEP, MAX_DRIFT = 0.06, 0.1
"""Largest change of scale and place of one step and altogether, in sides of the picture."""
FIRST_RESIDUAL, LAST_RESIDUAL = 0.6, 0.3
"""Residuals, in deviations of luminance, from which on a pixel counts as overlaid and loses its weight."""

Planes = Float[Tensor, "n 3 side side"]


@dataclass(frozen=True)
class Placement:
    """Where `inner` lies in `outer`, for many pairs.

    A point at u in [0, 1] of the inner picture, mirrored if so, shows what is at `scale` · u + `offset` of the outer
    one. Components are (across, down).
    """

    outer: Int[Tensor, " pairs"]
    inner: Int[Tensor, " pairs"]
    scale: Float[Tensor, "pairs 2"]
    offset: Float[Tensor, "pairs 2"]
    mirrored: Bool[Tensor, " pairs"]
    correlation: Float[Tensor, " pairs"]
    """Of luminance, in [-1, 1], as found by the coarse search."""

    def __getitem__(self, rows: Tensor | slice) -> "Placement":
        return Placement(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def locate(planes: Planes, pairs: Int[Tensor, "pairs 2"]) -> Placement:
    """Find for every pair which picture lies in the other, and where: the best place on a grid.

    Args:
        planes: contrast-normalised pictures.
        pairs: positions in `planes`; every pair is tried both ways round.
    """
    count = len(pairs)
    directed = torch.cat([pairs, pairs.flip(1)])
    order = torch.argsort(directed[:, 0], stable=True)
    found = torch.empty(len(directed), 4, device=planes.device)
    found[order] = _search(planes[:, 0], directed[order])
    second = found[count:, 0] > found[:count, 0]
    best = torch.where(second[:, None], found[count:], found[:count])
    scale, across, down = _decode(best[:, 1], best[:, 2])
    return Placement(
        outer=torch.where(second, pairs[:, 1], pairs[:, 0]),
        inner=torch.where(second, pairs[:, 0], pairs[:, 1]),
        scale=scale[:, None].expand(-1, 2),
        offset=torch.stack([across, down], dim=1),
        mirrored=best[:, 3] > 0,
        correlation=best[:, 0],
    )


def _decode(crop: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    side = torch.tensor(CROPS, device=crop.device)[crop.long()]
    room = COARSE - side + 1
    place = place.long()
    return side / COARSE, (place % room) / COARSE, torch.div(place, room, rounding_mode="floor") / COARSE


def _search(luminance: Float[Tensor, "n side side"], directed: Int[Tensor, "pairs 2"]) -> Float[Tensor, "pairs 4"]:
    """Best correlation, index of the crop, of its place, and mirroring, for pairs sorted by their outer picture."""
    reduced = _resize(luminance, COARSE)
    templates = [_unit(_resize(luminance, side).flatten(1)) for side in CROPS]
    mirrored = [_unit(_resize(luminance, side).flip(-1).flatten(1)) for side in CROPS]
    outer, row, column = _groups(directed[:, 0])
    found = torch.empty(len(directed), 4, device=luminance.device)
    rows_of = torch.searchsorted(row, torch.arange(0, len(outer) + CHUNK, CHUNK, device=row.device))
    for number, first in enumerate(range(0, len(outer), CHUNK)):
        members = slice(int(rows_of[number]), int(rows_of[number + 1]))
        local, slot = row[members] - first, column[members]
        inner = torch.zeros((len(outer[first : first + CHUNK]), GROUP), dtype=torch.int64, device=row.device)
        inner[local, slot] = directed[members, 1]
        best = _best_places(reduced[outer[first : first + CHUNK]], inner, templates, mirrored)
        found[members] = best[local, slot]
    return found


def _best_places(
    pictures: Float[Tensor, "rows side side"],
    inner: Int[Tensor, "rows group"],
    templates: list[Tensor],
    mirrored: list[Tensor],
) -> Float[Tensor, "rows group 4"]:
    best = torch.full((*inner.shape, 4), -2.0, device=pictures.device)
    for crop, side in enumerate(CROPS):
        windows = _unit(F.unfold(pictures[:, None], side).transpose(1, 2))
        for flip, bank in enumerate((templates, mirrored)):
            correlation, place = (windows @ bank[crop][inner].transpose(1, 2)).max(dim=1)
            kind = torch.tensor([crop, flip], device=pictures.device).expand(*inner.shape, 2)
            tried = torch.stack([correlation, kind[..., 0], place, kind[..., 1]], dim=-1)
            best = torch.where((correlation > best[..., 0])[..., None], tried, best)
    return best


def _groups(outer: Int[Tensor, " pairs"]) -> tuple[Tensor, Tensor, Tensor]:
    """Cut runs of equal pictures into rows of at most `GROUP`: the picture of each row, and row and slot of each."""
    pictures, lengths = torch.unique_consecutive(outer, return_counts=True)
    starts = lengths.cumsum(0) - lengths
    within = torch.arange(len(outer), device=outer.device) - starts.repeat_interleave(lengths)
    rows = (lengths + GROUP - 1) // GROUP
    first_row = (rows.cumsum(0) - rows).repeat_interleave(lengths)
    return pictures.repeat_interleave(rows), first_row + within // GROUP, within % GROUP


def _resize(luminance: Float[Tensor, "n side side"], side: int) -> Tensor:
    return F.interpolate(luminance[:, None], size=(side, side), mode="bilinear", antialias=True)[:, 0]


def _unit(vectors: Tensor) -> Tensor:
    """Zero mean, unit length; a plain picture becomes zero and correlates with nothing."""
    centred = vectors - vectors.mean(dim=-1, keepdim=True)
    return centred / centred.norm(dim=-1, keepdim=True).clamp_min(1e-2 * vectors.shape[-1] ** 0.5)


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
    refined = Placement(
        placement.outer, placement.inner, scale, offset, placement.mirrored, placement.correlation
    )
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
