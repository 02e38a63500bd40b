"""Which of the candidate pairs do show the same picture, found by laying one over the other."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from components.features.agreement import agreement
from components.features.alignment import align
from components.features.registration import locate, registration_planes
from components.features.thumbnails import FLAT, contrast, opponent_planes
from components.tracking import progress

CORRELATION = 0.6
"""Coarse correlation from which on a pair is aligned; 99 % of the planted copies reach it."""
LEAST_CROP, LARGEST_CROP = 0.74, 1.06
"""Sides of a crop that still is a copy, of the whole picture's."""
PLAIN_DIFFERENCE = 0.03
"""Difference of mean colour, of its range, up to which two pictures without content are the same."""
BLOCK = 16_384
"""Pairs looked at together; memory stays below 1.5 GiB."""
ALIGN_BLOCK = 256


class Copies(NamedTuple):
    """Compared pairs; `agreement` tells how sure."""

    pairs: Int[np.ndarray, "pairs 2"]
    agreement: Float[np.ndarray, " pairs"]
    """Share of the two pictures that is the same, in [0, 1]; 0 for what cannot be aligned."""
    mirrored: Bool[np.ndarray, " pairs"]


def compare(
    thumbnails: UInt8[np.ndarray, "n side side 3"], pairs: Int[np.ndarray, "pairs 2"], *, device: str = "cpu"
) -> Copies:
    """Register every pair and measure how much of it agrees.

    Args:
        thumbnails: of all images.
        pairs: positions in `thumbnails`, sorted.
        device: where to compute.
    """
    scores, mirrored = np.zeros(len(pairs), np.float32), np.zeros(len(pairs), bool)
    starts = range(0, len(pairs), BLOCK)
    for first in progress(starts, total=len(starts), description="comparing", unit="block"):
        rows = slice(first, first + BLOCK)
        used, local = np.unique(pairs[rows], return_inverse=True)
        small = torch.from_numpy(thumbnails[used]).to(device)
        score, flip = _compare(small, torch.from_numpy(local.reshape(-1, 2)).to(device))
        scores[rows], mirrored[rows] = score.cpu().numpy(), flip.cpu().numpy()
    return Copies(pairs, scores, mirrored)


def _compare(
    thumbnails: UInt8[Tensor, "n side side 3"], pairs: Int[Tensor, "pairs 2"]
) -> tuple[Float[Tensor, " pairs"], Bool[Tensor, " pairs"]]:
    planes = registration_planes(thumbnails)
    placement = locate(planes, pairs)
    scores = torch.zeros(len(pairs), device=pairs.device)
    likely = (placement.correlation >= CORRELATION).nonzero()[:, 0]
    for rows in torch.split(likely, ALIGN_BLOCK):
        aligned = align(planes, placement[rows])
        scale = aligned.placement.scale
        is_crop = ((scale >= LEAST_CROP) & (scale <= LARGEST_CROP)).all(dim=1)
        scores[rows] = agreement(aligned) * is_crop
    plain, same = _plain(thumbnails, pairs)
    return torch.where(plain, same.float(), scores), placement.mirrored


def _plain(
    thumbnails: UInt8[Tensor, "n side side 3"], pairs: Int[Tensor, "pairs 2"]
) -> tuple[Bool[Tensor, " pairs"], Bool[Tensor, " pairs"]]:
    """Which pairs hold a picture without content, and of these, which are two of one colour."""
    planes = opponent_planes(thumbnails)
    flat, colour = contrast(planes) < FLAT, planes.mean(dim=(2, 3))
    near = (colour[pairs[:, 0]] - colour[pairs[:, 1]]).abs().amax(dim=1) < PLAIN_DIFFERENCE
    return flat[pairs].any(dim=1), flat[pairs].all(dim=1) & near
