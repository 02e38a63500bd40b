"""Registration: where one picture lies within another, if it is a mirrored, scaled or cropped copy of it.

The search is by normalised cross-correlation over mirroring, scale and place, exact on its grid; `alignment` refines
what it finds.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from components.features.thumbnails import normalise_contrast, opponent_planes

COARSE = 24
"""Side of the pictures of the coarse search, pixels."""
CROPS = (24, 22, 20, 18)
"""Sides of the crops that are looked for, of `COARSE`."""
GROUP = 16
"""Pictures looked for in one picture at a time."""
CHUNK = 512

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


def registration_planes(thumbnails: UInt8[Tensor, "n side side 3"]) -> Planes:
    """Return contrast-normalised luminance and colour differences, smoothed so that codecs and resizing tell less."""
    planes = F.pad(normalise_contrast(opponent_planes(thumbnails)), (1, 1, 1, 1), mode="replicate")
    planes = planes[..., :-2] * 0.25 + planes[..., 1:-1] * 0.5 + planes[..., 2:] * 0.25
    return planes[..., :-2, :] * 0.25 + planes[..., 1:-1, :] * 0.5 + planes[..., 2:, :] * 0.25


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
    length: Tensor = centred.norm(dim=-1, keepdim=True)
    return centred / length.clamp_min(1e-2 * vectors.shape[-1] ** 0.5)
