"""Which of the candidate pairs do show the same picture, found by laying one over the other.

In three steps, each for what the one before left over: registration on a grid, alignment and agreement of thumbnails
of 32 pixels, and local correlation of thumbnails of 64.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from components.features.agreement import agreement, local_correlation
from components.features.alignment import align
from components.features.registration import Placement, locate, registration_planes
from components.features.thumbnails import opponent_planes
from components.tracking import progress

CORRELATION = 0.6
"""Coarse correlation from which on a pair is aligned; 99 % of the planted copies reach it."""
LEAST_CROP, LARGEST_CROP = 0.74, 1.06
"""Sides of a crop that still is a copy, of the whole picture's."""
PLAIN = 0.012
"""Deviation of luminance and of each colour, of its range, below which a picture has no content to register."""
PLAIN_DIFFERENCE = 0.03
"""Difference of mean colour, of its range, up to which two plain pictures are the same."""
FINE_SIDE = 64
FINE_CORRELATION = 0.7
"""Local correlation of copies at least; 98 % of the planted copies reach it, a third of the frames of one street."""
BLOCK = 16_384
"""Pairs looked at together; memory stays below 1.5 GiB."""
ALIGN_BLOCK = 256

FineThumbnails = Callable[[Int[np.ndarray, " rows"]], UInt8[np.ndarray, "rows fine fine 3"]]


class Copies(NamedTuple):
    """Compared pairs; `agreement` tells how sure."""

    pairs: Int[np.ndarray, "pairs 2"]
    agreement: Float[np.ndarray, " pairs"]
    """Share of the two pictures that is the same, in [0, 1]; 0 for what cannot be aligned."""
    mirrored: Bool[np.ndarray, " pairs"]


def compare(
    thumbnails: UInt8[np.ndarray, "n side side 3"],
    pairs: Int[np.ndarray, "pairs 2"],
    fine: FineThumbnails,
    *,
    least: float,
    device: str = "cpu",
) -> Copies:
    """Register every pair and measure how much of it agrees.

    Args:
        thumbnails: of all images.
        pairs: positions in `thumbnails`, sorted.
        fine: makes thumbnails of `FINE_SIDE` of some images.
        least: agreement from which on a pair is looked at closely.
        device: where to compute.
    """
    scores, mirrored = np.zeros(len(pairs), np.float32), np.zeros(len(pairs), bool)
    starts = range(0, len(pairs), BLOCK)
    for first in progress(starts, total=len(starts), description="comparing", unit="block"):
        rows = slice(first, first + BLOCK)
        used, local = np.unique(pairs[rows], return_inverse=True)
        small = torch.from_numpy(thumbnails[used]).to(device)
        placement = locate(registration_planes(small), torch.from_numpy(local.reshape(-1, 2)).to(device))
        score = _agreement(small, placement)
        close = ((score >= least) & ~_plain(small)[placement.outer]).nonzero()[:, 0]
        score[close] *= _matches(placement[close], used, fine) if len(close) else 1.0
        scores[rows], mirrored[rows] = score.cpu().numpy(), placement.mirrored.cpu().numpy()
    return Copies(pairs, scores, mirrored)


def _agreement(thumbnails: UInt8[Tensor, "n side side 3"], placement: Placement) -> Float[Tensor, " pairs"]:
    planes = registration_planes(thumbnails)
    scores = torch.zeros_like(placement.correlation)
    likely = (placement.correlation >= CORRELATION).nonzero()[:, 0]
    for rows in torch.split(likely, ALIGN_BLOCK):
        aligned = align(planes, placement[rows])
        scale = aligned.placement.scale
        is_crop = ((scale >= LEAST_CROP) & (scale <= LARGEST_CROP)).all(dim=1)
        scores[rows] = agreement(aligned) * is_crop
    plain, colour = _plain(thumbnails), opponent_planes(thumbnails).mean(dim=(2, 3))
    one, other = placement.outer, placement.inner
    alike = (colour[one] - colour[other]).abs().amax(dim=1) < PLAIN_DIFFERENCE
    return torch.where(plain[one] | plain[other], (plain[one] & plain[other] & alike).float(), scores)


def _plain(thumbnails: UInt8[Tensor, "n side side 3"]) -> Bool[Tensor, " n"]:
    return opponent_planes(thumbnails).std(dim=(2, 3), correction=0).amax(dim=1) < PLAIN


def _matches(placement: Placement, used: Int[np.ndarray, " n"], fine: FineThumbnails) -> Float[Tensor, " pairs"]:
    """1 for pairs whose fine structure matches, else 0."""
    both = torch.stack([placement.outer, placement.inner], dim=1)
    rows, local = torch.unique(both, return_inverse=True)
    planes = registration_planes(torch.from_numpy(fine(used[rows.cpu().numpy()])).to(both.device))
    placement = replace(placement, outer=local[:, 0], inner=local[:, 1])
    parts = torch.split(torch.arange(len(local), device=both.device), ALIGN_BLOCK)
    return torch.cat([local_correlation(align(planes, placement[part])) >= FINE_CORRELATION for part in parts]).float()
