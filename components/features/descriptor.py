"""A descriptor of pictures that needs no training.

Four parts, none of which changes when a picture is mirrored, and all of which change little when it is cropped,
re-encoded, resized, brightened or written on: magnitudes of low spatial frequencies, a histogram of colours, edges by
direction and distance from the centre, and the distribution of edge strengths. The last tells drawings, text and noise
from photographs; the others find near-duplicates and pictures of like things.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from components.features.scratch import scratch
from components.features.thumbnails import normalise_contrast, opponent_planes, thumbnail

VERSION = 1
BATCH = 512
FREQUENCIES = (7, 4, 4)
"""Highest frequency kept of luminance and of the two colour planes, periods per picture."""
LUMINANCE_LEVELS, COLOUR_LEVELS = 6, 5
SCALES = (1, 2, 4)
"""Sizes of the pixels that edges are taken between, pixels of the thumbnail."""
RINGS, DIRECTIONS, STRENGTHS = 3, 4, 8
WEIGHTS = (1.0, 0.7, 0.5, 1.0)
"""Of frequencies, colours, edges, strengths; chosen on planted copies in CIFAR-10 and CamVid, and on off-topic
pictures."""

Planes = Float[Tensor, "n 3 side side"]


def descriptor_name() -> str:
    """Name of the descriptor in `data/embedder.lock`; another version gives other vectors."""
    return f"builtin:v{VERSION}"


def describe(images: Sequence[Image.Image]) -> Float[np.ndarray, "n dim"]:
    """Describe pictures of any sizes by float32 vectors of length 1."""
    if not images:
        return np.zeros((0, DIMENSION), np.float32)
    return describe_thumbnails(torch.from_numpy(np.stack([thumbnail(image) for image in images]))).numpy()


def describe_thumbnails(thumbnails: UInt8[Tensor, "n side side 3"]) -> Float[Tensor, "n dim"]:
    """As `describe`, from thumbnails, on their device."""
    return torch.cat([_describe(part) for part in torch.split(thumbnails, BATCH)])


def describe_many(thumbnails: UInt8[np.ndarray, "n side side 3"], device: str = "cpu") -> Float[np.ndarray, "n dim"]:
    """As `describe_thumbnails`, of so many that the vectors need not stay in memory; see `scratch`."""
    made = scratch((len(thumbnails), DIMENSION), np.float32)
    for first in range(0, len(thumbnails), BATCH):
        part = torch.from_numpy(thumbnails[first : first + BATCH]).to(device)
        made[first : first + BATCH] = _describe(part).cpu().numpy()
    return made


def _describe(thumbnails: UInt8[Tensor, "n side side 3"]) -> Float[Tensor, "n dim"]:
    planes = normalise_contrast(opponent_planes(thumbnails))
    parts = (_frequencies(planes), _colours(planes), _edges(planes), _strengths(planes))
    return _unit(torch.cat([weight * _unit(part) for weight, part in zip(WEIGHTS, parts, strict=True)], dim=1))


def _unit(vectors: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    length: Float[Tensor, "n 1"] = vectors.norm(dim=1, keepdim=True)
    return vectors / length.clamp_min(1e-6)


def _frequencies(planes: Planes) -> Float[Tensor, "n dim"]:
    """Roots of the magnitudes of the windowed picture's spectrum.

    Mirroring exchanges the frequencies (u, v) and (u, -v): the greater and the lesser of the two are kept.
    """
    window = torch.hann_window(planes.shape[-1] + 2, periodic=False, device=planes.device)[1:-1]
    window = window[:, None] * window
    mean = (planes * window).sum((2, 3), keepdim=True) / window.sum()
    spectrum = torch.fft.rfft2((planes - mean) * window).abs()
    parts = []
    for plane, highest in enumerate(FREQUENCIES):
        falling = spectrum[:, plane, : highest + 1, : highest + 1]
        rising = torch.cat([falling[:, :1], spectrum[:, plane, -highest:, : highest + 1].flip(1)], dim=1)
        parts += [torch.maximum(falling, rising).flatten(1), torch.minimum(falling, rising).flatten(1)]
    return torch.cat(parts, dim=1).sqrt()


def _soft_bins(values: Tensor, centres: Tensor, width: float) -> Tensor:
    """Share every value out among bins; the shares add up to 1."""
    return torch.softmax(-(((values[..., None] - centres.to(values.device)) / width) ** 2), dim=-1)


def _colours(planes: Planes) -> Float[Tensor, "n dim"]:
    """Roots of a joint histogram of luminance and both colour differences, of pixels of twice the side."""
    luminance, first, second = F.avg_pool2d(planes, 2).flatten(2).unbind(1)
    levels = _soft_bins(luminance, torch.linspace(-1.8, 1.8, LUMINANCE_LEVELS), 0.6)
    hues = torch.linspace(-1.0, 1.0, COLOUR_LEVELS)
    pairs = _soft_bins(first, hues, 0.35)[..., :, None] * _soft_bins(second, hues, 0.35)[..., None, :]
    return (levels.transpose(1, 2) @ pairs.flatten(2) / luminance.shape[1]).flatten(1).sqrt()


def _gradients(planes: Planes, scale: int) -> tuple[Float[Tensor, "n h w"], Float[Tensor, "n h w"]]:
    """Absolute differences of luminance downwards and to the right."""
    luminance = F.avg_pool2d(planes[:, :1], scale)[:, 0]
    down = luminance[:, 2:, 1:-1] - luminance[:, :-2, 1:-1]
    right = luminance[:, 1:-1, 2:] - luminance[:, 1:-1, :-2]
    return down.abs(), right.abs()


def _edges(planes: Planes) -> Float[Tensor, "n dim"]:
    """Roots of edge strength by scale, ring, upper or lower half, and direction."""
    parts = []
    for scale in SCALES:
        down, right = _gradients(planes, scale)
        steps = torch.arange(DIRECTIONS, device=planes.device)
        direction = torch.atan2(down, right) * ((DIRECTIONS - 1) / (math.pi / 2.0))
        strength = (1.0 - (direction[..., None] - steps).abs()).clamp_min(0.0) * torch.hypot(down, right)[..., None]
        zones = _zones(down.shape[-1]).to(planes.device)
        parts.append((torch.einsum("nhwd,zhw->nzd", strength, zones)).flatten(1))
    return torch.cat(parts, dim=1).sqrt()


def _zones(side: int) -> Float[Tensor, "zones side side"]:
    """Weights that average over rings about the centre, in the upper and in the lower half."""
    at = (torch.arange(side) + 0.5) / side * 2.0 - 1.0
    distance = torch.maximum(at[:, None].abs(), at.abs())
    rings = (1.0 - (distance * RINGS - 0.5 - torch.arange(RINGS)[:, None, None]).abs()).clamp_min(0.0)
    halves = torch.cat([rings * (at[:, None] < 0), rings * (at[:, None] >= 0)])
    return halves / halves.sum((1, 2), keepdim=True)


def _strengths(planes: Planes) -> Float[Tensor, "n dim"]:
    """Roots of histograms of the logarithm of edge strength, one a scale."""
    parts = []
    for scale in SCALES:
        strength = torch.log2(torch.hypot(*_gradients(planes, scale)) + 0.02).flatten(1)
        parts.append(_soft_bins(strength, torch.linspace(-5.0, 2.0, STRENGTHS), 0.7).mean(1))
    return torch.cat(parts, dim=1).sqrt()


DIMENSION = (
    sum(2 * (highest + 1) ** 2 for highest in FREQUENCIES)
    + LUMINANCE_LEVELS * COLOUR_LEVELS**2
    + len(SCALES) * (2 * RINGS * DIRECTIONS + STRENGTHS)
)
"""Length of a vector."""
