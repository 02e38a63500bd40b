"""Colour operations on a batch of crops at once; each crop gets its own draw, and no crop changes another's result."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from components.data.resampling import batched_product
from components.data.views import Draws
from components.imagenet import IMAGENET_MEAN, IMAGENET_STD

LUMINANCE = (0.2989, 0.587, 0.114)
SOLARISE_THRESHOLD = 128 / 255
Crops = Float[Tensor, "crops 3 side side"]
Operation = Callable[[Tensor, Tensor], Tensor]


def augment(crops: Crops, draws: Draws, blur_kernel: int) -> Crops:
    """Flip, jitter, grey, blur, solarise and normalise.

    Args:
        crops: values in 0..1; may be written to.
        draws: what to do to each.
        blur_kernel: width of the Gaussian kernel, pixels.

    Returns:
        Normalised with ImageNet's mean and standard deviation.
    """
    if crops.device.type == "cpu":
        from components.data.crop_kernels import colour_crops

        crops = crops.contiguous()
        colour_crops(
            crops.numpy(),
            draws.flip,
            draws.jitter,
            draws.factors,
            draws.order,
            draws.grey,
            draws.sigma,
            draws.solarise,
            blur_kernel,
            np.array(IMAGENET_MEAN, np.float32),
            np.array(IMAGENET_STD, np.float32),
        )
        return crops
    return augment_together(crops, draws, blur_kernel)


def augment_together(crops: Crops, draws: Draws, blur_kernel: int) -> Crops:
    """The same by operators on all crops at once, on any device."""
    crops = _on(crops, draws.flip, lambda rows: rows.flip(-1))
    crops = _jitter(crops, draws)
    crops = _on(crops, draws.grey, lambda rows: luminance(rows).expand_as(rows))
    blurred = draws.sigma > 0
    sigma = torch.from_numpy(draws.sigma[blurred]).to(crops.device)
    crops = _on(crops, blurred, lambda rows: blur(rows, sigma, blur_kernel))
    crops = _on(crops, draws.solarise, solarise)
    return normalise(crops)


def normalise(crops: Crops) -> Crops:
    """Subtracts ImageNet's mean and divides by its standard deviation."""
    mean = crops.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
    std = crops.new_tensor(IMAGENET_STD).view(3, 1, 1)
    return (crops - mean) / std


def luminance(crops: Crops) -> Float[Tensor, "crops 1 side side"]:
    """ITU-R 601 grey."""
    red, green, blue = LUMINANCE
    return (red * crops[:, 0] + green * crops[:, 1] + blue * crops[:, 2])[:, None]


def brightness(crops: Crops, factor: Float[Tensor, " crops"]) -> Crops:
    """Blend with black: factor 0 is black, 1 changes nothing."""
    return (crops * factor.view(-1, 1, 1, 1)).clamp_(0, 1)


def contrast(crops: Crops, factor: Float[Tensor, " crops"]) -> Crops:
    """Blend with the mean grey of each crop."""
    factor = factor.view(-1, 1, 1, 1)
    mean = luminance(crops).mean(dim=(1, 2, 3), keepdim=True)
    return (crops * factor + mean * (1 - factor)).clamp_(0, 1)


def saturation(crops: Crops, factor: Float[Tensor, " crops"]) -> Crops:
    """Blend with the crop's own grey."""
    factor = factor.view(-1, 1, 1, 1)
    return (crops * factor + luminance(crops) * (1 - factor)).clamp_(0, 1)


def hue(crops: Crops, turn: Float[Tensor, " crops"]) -> Crops:
    """Turns the hue in HSV.

    Args:
        crops: values in 0..1.
        turn: share of the circle, -0.5..0.5.
    """
    red, green, blue = crops.unbind(1)
    value = crops.amax(1)
    chroma = value - crops.amin(1)
    safe = chroma.clamp(min=1e-12)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sector = torch.where(chroma > 0, sector, 0.0) + 6 * turn.view(-1, 1, 1)
    # f(n) = V - C max(0, min(k, 4 - k, 1)) with k = (n + H) mod 6, n = 5, 3, 1 for red, green, blue
    offsets = crops.new_tensor([5.0, 3.0, 1.0]).view(1, 3, 1, 1)
    k = (sector[:, None] + offsets).remainder_(6)
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp_(0, 1)


def blur(crops: Crops, sigma: Float[Tensor, " crops"], kernel: int) -> Crops:
    """Gaussian blur with reflected edges, as a product with a banded matrix from each side.

    Args:
        crops: values in 0..1.
        sigma: standard deviation for each crop, pixels, above 0.
        kernel: width of the kernel, pixels, odd; it is cut where it would be wider than twice the crop.
    """
    side = crops.shape[-1]
    radius = min(kernel // 2, side - 1)
    offsets = torch.arange(-radius, radius + 1, device=crops.device, dtype=crops.dtype)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)
    target = torch.arange(side, device=crops.device)
    source = (target[:, None] + offsets.long()).abs()
    source = torch.where(source >= side, 2 * (side - 1) - source, source)
    band = crops.new_zeros(len(crops), side, side)
    band.scatter_add_(2, source.expand(len(crops), -1, -1), weights[:, None, :].expand(-1, side, -1).contiguous())
    wide = batched_product(crops.reshape(-1, 3 * side, side), band.transpose(1, 2))
    side_by_side = wide.view(-1, 3, side, side).transpose(1, 2).reshape(-1, side, 3 * side)
    return batched_product(band, side_by_side).view(-1, side, 3, side).transpose(1, 2)


def solarise(crops: Crops) -> Crops:
    """Inverts what is at least as bright as the threshold."""
    return torch.where(crops >= SOLARISE_THRESHOLD, 1 - crops, crops)


_JITTER = (brightness, contrast, saturation, hue)


def _jitter(crops: Crops, draws: Draws) -> Crops:
    """The four operations in each crop's own order."""
    factors = torch.from_numpy(draws.factors).to(crops.device)
    for turn in range(len(_JITTER)):
        for number, operation in enumerate(_JITTER):
            chosen = draws.jitter & (draws.order[:, turn] == number)
            own = factors[torch.from_numpy(chosen).to(crops.device), number]
            crops = _on(crops, chosen, partial(_with, operation, own))
    return crops


def _with(operation: Operation, factor: Tensor, rows: Crops) -> Crops:
    return operation(rows, factor)


def _on(crops: Crops, chosen: np.ndarray, operation: Callable[[Crops], Crops]) -> Crops:
    """Applies an operation to the chosen crops."""
    rows = torch.from_numpy(np.flatnonzero(chosen)).to(crops.device)
    if len(rows) == 0:
        return crops
    return crops.index_copy_(0, rows, operation(crops.index_select(0, rows)))
