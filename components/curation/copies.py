"""Which of the candidate pairs do show the same picture, found by laying one over the other.

In three steps, each for what the one before left over: registration on a grid, alignment and agreement of thumbnails
of 32 pixels, and local correlation of thumbnails of 64.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from components.features.agreement import agreement, local_correlation
from components.features.alignment import Aligned, align
from components.features.registration import Placement, locate, registration_planes
from components.features.scratch import scratch
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
"""Pairs looked at together; memory stays below 2 GiB."""
ALIGN_BLOCK = 256

Thumbnails = UInt8[np.ndarray, "n side side 3"]
FineThumbnails = Callable[[Int[np.ndarray, " rows"]], UInt8[np.ndarray, "rows fine fine 3"]]


class Copies(NamedTuple):
    """Compared pairs; `agreement` tells how sure."""

    pairs: Int[np.ndarray, "pairs 2"]
    agreement: Float[np.ndarray, " pairs"]
    """Share of the two pictures that is the same, in [0, 1]; 0 for what cannot be aligned."""
    mirrored: Bool[np.ndarray, " pairs"]


def compare(
    thumbnails: Thumbnails,
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
    if not len(pairs):
        return Copies(pairs, np.zeros(0, np.float32), np.zeros(0, bool))
    placement = _locate(thumbnails, pairs, device)
    scores = np.zeros(len(pairs), np.float32)
    likely = np.flatnonzero(placement.correlation.numpy() >= CORRELATION)
    starts = range(0, len(likely), BLOCK)
    for first in progress(starts, total=len(starts), description="comparing", unit="block"):
        rows = likely[first : first + BLOCK]
        score = _agreement(thumbnails, placement[torch.from_numpy(rows)], device)
        close = score >= least
        score[close] *= _fine_match(placement[torch.from_numpy(rows[close])], fine, device)
        scores[rows] = score
    any_plain, same_plain = _plain(thumbnails, pairs)
    return Copies(pairs, np.where(any_plain, same_plain, scores).astype(np.float32), placement.mirrored.numpy())


def _locate(thumbnails: Thumbnails, pairs: Int[np.ndarray, "pairs 2"], device: str) -> Placement:
    """The better place of every pair, each picture searched in the other; on the CPU."""
    luminance = _luminance(thumbnails, device)
    directed = np.concatenate([pairs, pairs[:, ::-1]])
    order = np.argsort(directed[:, 0], kind="stable")
    parts: list[Placement] = []
    starts = range(0, len(order), BLOCK)
    for first in progress(starts, total=len(starts), description="registering", unit="block"):
        rows = directed[order[first : first + BLOCK]]
        used, local = np.unique(rows, return_inverse=True)
        outer, inner = torch.from_numpy(local.reshape(-1, 2)).to(device).unbind(1)
        found = locate(torch.from_numpy(luminance[used]).to(device).float(), outer, inner)
        parts.append(
            replace(_moved(found, "cpu"), outer=torch.from_numpy(rows[:, 0]), inner=torch.from_numpy(rows[:, 1]))
        )
    back = torch.from_numpy(np.argsort(order))
    joined = Placement(*(torch.cat([getattr(part, one.name) for part in parts])[back] for one in fields(Placement)))
    here, there = torch.arange(len(pairs)), torch.arange(len(pairs), len(directed))
    return joined[torch.where(joined.correlation[there] > joined.correlation[here], there, here)]


def _luminance(thumbnails: Thumbnails, device: str) -> Float[np.ndarray, "n side side"]:
    """What registration searches in, of all images, in half precision: 2 KiB an image."""
    found = scratch(thumbnails.shape[:3], np.float16)
    for first in range(0, len(thumbnails), BLOCK):
        rows = slice(first, first + BLOCK)
        found[rows] = registration_planes(torch.from_numpy(thumbnails[rows]).to(device))[:, 0].half().cpu().numpy()
    return found


def _moved(placement: Placement, device: str) -> Placement:
    return Placement(*(getattr(placement, one.name).to(device) for one in fields(Placement)))


def _localised(placement: Placement, device: str) -> tuple[Int[np.ndarray, " used"], Placement]:
    """The images that some pairs use, and the pairs by position among them."""
    both = torch.stack([placement.outer, placement.inner], dim=1)
    used, local = torch.unique(both, return_inverse=True)
    return used.numpy(), _moved(replace(placement, outer=local[:, 0], inner=local[:, 1]), device)


def _agreement(thumbnails: Thumbnails, placement: Placement, device: str) -> Float[np.ndarray, " pairs"]:
    used, placement = _localised(placement, device)
    planes = registration_planes(torch.from_numpy(thumbnails[used]).to(device))
    scores = []
    for rows in torch.split(torch.arange(len(placement.outer), device=device), ALIGN_BLOCK):
        aligned = align(planes, placement[rows])
        scores.append(agreement(aligned) * _is_crop(aligned))
    return torch.cat(scores).cpu().numpy()


def _is_crop(aligned: Aligned) -> Bool[torch.Tensor, " pairs"]:
    scale = aligned.placement.scale
    return ((scale >= LEAST_CROP) & (scale <= LARGEST_CROP)).all(dim=1)


def _fine_match(placement: Placement, fine: FineThumbnails, device: str) -> Bool[np.ndarray, " pairs"]:
    used, placement = _localised(placement, device)
    if not len(used):
        return np.zeros(0, bool)
    planes = registration_planes(torch.from_numpy(fine(used)).to(device))
    rows = torch.split(torch.arange(len(placement.outer), device=device), ALIGN_BLOCK)
    matches = [local_correlation(align(planes, placement[part])) >= FINE_CORRELATION for part in rows]
    return torch.cat(matches).cpu().numpy()


def _plain(
    thumbnails: Thumbnails, pairs: Int[np.ndarray, "pairs 2"]
) -> tuple[Bool[np.ndarray, " pairs"], Bool[np.ndarray, " pairs"]]:
    """Pairs with a picture without content, and pairs of two such pictures of one colour."""
    plain, colour = np.zeros(len(thumbnails), bool), np.zeros((len(thumbnails), 3), np.float32)
    for first in range(0, len(thumbnails), BLOCK):
        rows = slice(first, first + BLOCK)
        planes = opponent_planes(torch.from_numpy(thumbnails[rows]))
        plain[rows] = (planes.std(dim=(2, 3), correction=0).amax(dim=1) < PLAIN).numpy()
        colour[rows] = planes.mean(dim=(2, 3)).numpy()
    one, other = pairs.T
    near = np.abs(colour[one] - colour[other]).max(axis=1, initial=0.0) < PLAIN_DIFFERENCE
    return plain[one] | plain[other], plain[one] & plain[other] & near
