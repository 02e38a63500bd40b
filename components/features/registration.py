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
"""Side of the pictures that are searched, pixels."""
CROPS = (24, 22, 20, 18)
"""Sides of the crops that are looked for, of `COARSE`."""
GROUP = 16
"""Pictures looked for in one picture at a time."""
CHUNK = 256
"""Pictures searched at a time."""
NOISE = 0.1
"""Deviation of luminance below which a window has no content, in deviations of its picture."""

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
    """Of luminance, in [-1, 1]."""

    def __getitem__(self, rows: Tensor | slice) -> "Placement":
        return Placement(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def registration_planes(thumbnails: UInt8[Tensor, "n side side 3"]) -> Planes:
    """Return contrast-normalised luminance and colour differences, smoothed so that codecs and resizing tell less."""
    planes = F.pad(normalise_contrast(opponent_planes(thumbnails)), (1, 1, 1, 1), mode="replicate")
    planes = planes[..., :-2] * 0.25 + planes[..., 1:-1] * 0.5 + planes[..., 2:] * 0.25
    return planes[..., :-2, :] * 0.25 + planes[..., 1:-1, :] * 0.5 + planes[..., 2:, :] * 0.25


def locate(
    luminance: Float[Tensor, "n side side"], outer: Int[Tensor, " pairs"], inner: Int[Tensor, " pairs"]
) -> Placement:
    """Find the best place of each inner picture in its outer one.

    The cost is that of the distinct runs of `outer` more than that of the pairs: give pairs sorted by it.

    Args:
        luminance: contrast-normalised, the first of the registration planes.
        outer: positions of the pictures that are searched.
        inner: positions of the pictures that are looked for.
    """
    found = torch.empty(len(outer), 4, device=luminance.device)
    reduced = _resize(luminance, COARSE)
    templates = [_unit(_resize(luminance, side)) for side in CROPS]
    banks = [(one.flatten(1), one.flip(-1).flatten(1)) for one in templates]
    pictures, row, slot = _groups(outer)
    bounds = torch.searchsorted(row, torch.arange(0, len(pictures) + CHUNK, CHUNK, device=row.device)).tolist()
    for number, first in enumerate(range(0, len(pictures), CHUNK)):
        members = slice(bounds[number], bounds[number + 1])
        searched = pictures[first : first + CHUNK]
        wanted = torch.zeros((len(searched), GROUP), dtype=torch.int64, device=row.device)
        wanted[row[members] - first, slot[members]] = inner[members]
        best = _best_places(reduced[searched], wanted, banks)
        found[members] = best[row[members] - first, slot[members]]
    side = torch.tensor(CROPS, device=luminance.device)[found[:, 1].long()]
    place, room = found[:, 2].long(), COARSE - side + 1
    corner = torch.stack([place % room, torch.div(place, room, rounding_mode="floor")], dim=1)
    scale = (side / COARSE)[:, None].expand(-1, 2)
    return Placement(outer, inner, scale, corner / COARSE, found[:, 3] > 0, found[:, 0])


def _best_places(
    pictures: Float[Tensor, "rows side side"],
    wanted: Int[Tensor, "rows group"],
    banks: list[tuple[Tensor, Tensor]],
) -> Float[Tensor, "rows group 4"]:
    """Best correlation, index of the crop, of its place, and mirroring."""
    best = torch.full((*wanted.shape, 4), -2.0, device=pictures.device)
    for crop, side in enumerate(CROPS):
        windows = F.unfold(pictures[:, None], side).transpose(1, 2)
        length = _deviation(pictures, side).clamp_min(NOISE) * side
        for flip, bank in enumerate(banks[crop]):
            # templates have no mean, so that the mean of a window does not matter
            correlation, place = ((windows @ bank[wanted].transpose(1, 2)) / length[:, :, None]).max(dim=1)
            kind = torch.tensor([crop, flip], device=pictures.device).expand(*wanted.shape, 2)
            tried = torch.stack([correlation, kind[..., 0], place, kind[..., 1]], dim=-1)
            best = torch.where((correlation > best[..., 0])[..., None], tried, best)
    return best


def _deviation(pictures: Float[Tensor, "rows side side"], side: int) -> Float[Tensor, "rows windows"]:
    """Standard deviation of every square window."""
    both = torch.stack([pictures, pictures.square()], dim=1)
    rows = F.avg_pool2d(both, (1, side), stride=1)
    mean, square = F.avg_pool2d(rows, (side, 1), stride=1).flatten(2).unbind(1)
    return (square - mean.square()).clamp_min(0.0).sqrt()


def _groups(outer: Int[Tensor, " pairs"]) -> tuple[Tensor, Tensor, Tensor]:
    """Cut runs of equal pictures into rows of at most `GROUP`: the picture of each row, and row and slot of each."""
    pictures, lengths = torch.unique_consecutive(outer, return_counts=True)
    starts = lengths.cumsum(0) - lengths
    within = torch.arange(len(outer), device=outer.device) - starts.repeat_interleave(lengths)
    rows = (lengths + GROUP - 1) // GROUP
    first_row = (rows.cumsum(0) - rows).repeat_interleave(lengths)
    return pictures.repeat_interleave(rows), first_row + within // GROUP, within % GROUP


def _resize(luminance: Float[Tensor, "n side side"], side: int) -> Float[Tensor, "n smaller smaller"]:
    """Shrink with antialiasing, as two matrix products: many times faster than to interpolate."""
    whole = luminance.shape[-1]
    unit = torch.eye(whole, device=luminance.device)[None, None]
    rows = F.interpolate(unit, size=(side, whole), mode="bilinear", antialias=True)[0, 0]
    return rows @ luminance @ rows.T


def _unit(pictures: Float[Tensor, "n side side"]) -> Float[Tensor, "n side side"]:
    """Zero mean, unit length; a plain picture becomes zero and correlates with nothing."""
    centred = pictures - pictures.mean(dim=(1, 2), keepdim=True)
    deviation = centred.square().mean(dim=(1, 2), keepdim=True).sqrt()
    return centred / (deviation.clamp_min(NOISE) * pictures.shape[-1])
