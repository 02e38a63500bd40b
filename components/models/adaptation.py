"""Weights of a backbone for another image size, patch size, number of channels or for registers."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from components.errors import UserError
from components.models.embedding import interpolation_matrix
from components.models.vit import ViTConfig

KERNEL = "embedding.projection.weight"
POSITION = "embedding.position"
REGISTERS = "embedding.registers"
SAME = ("width", "depth", "heads", "ffn", "ffn_ratio")
"""What cannot be changed without training anew."""


def adapt(tensors: Mapping[str, Tensor], given: ViTConfig, wanted: ViTConfig, shown: str) -> dict[str, Tensor]:
    """Weights that make a backbone of the wanted architecture start from those of a given one.

    - Position embedding: interpolated to the new number of patches, by the rule of the wanted architecture.
    - Patch embedding of another patch size: the least-squares solution for which a patch that is resized (bicubic,
      antialias) keeps its token (Beyer et al. 2023, FlexiViT, section 3.4). Exact for larger patches.
    - Another number of channels: every channel gets the mean of the given ones, scaled so that an image whose channels
      are all equal keeps its tokens.
    - Registers that the given backbone does not have are left out of the result: they begin as drawn from the seed.

    Args:
        tensors: weights by the names of `VisionTransformer`.
        given: their architecture.
        wanted: the architecture to begin.
        shown: name of the source, for messages.

    Raises:
        UserError: naming what differs and cannot be adapted.
    """
    for name in SAME:
        if getattr(given, name) != getattr(wanted, name):
            raise UserError(
                f"{shown}: its {name} is {getattr(given, name)}, and model.{name} {getattr(wanted, name)}",
                remedy=f"set model.{name} to {getattr(given, name)}, or begin with another backbone",
            )
    if (given.layer_scale is None) != (wanted.layer_scale is None):
        has = "no LayerScale" if given.layer_scale is None else "LayerScale"
        value = "null" if given.layer_scale is None else "1.0e-5"
        raise UserError(f"{shown}: has {has}, and the model otherwise", remedy=f"set model.layer_scale to {value}")
    if given.registers not in (0, wanted.registers):
        raise UserError(
            f"{shown}: has {given.registers} registers, and the model {wanted.registers}",
            remedy=f"set model.registers to {given.registers}",
        )
    result = dict(tensors)
    kernel = result[KERNEL].reshape(given.width, given.channels, given.patch_size, given.patch_size)
    kernel = _with_channels(_with_patch(kernel, wanted.patch_size), wanted.channels)
    result[KERNEL] = kernel.flatten(1)
    result[POSITION] = _with_side(result[POSITION], given, wanted)
    return result


def _with_patch(kernel: Float[Tensor, "width channels old old"], size: int) -> Float[Tensor, "width channels new new"]:
    if kernel.shape[-1] == size:
        return kernel
    # tokens stay if kernel = resizeᵀ new, on both axes
    resize = interpolation_matrix(kernel.shape[-1], size, "antialias").double()
    inverse = torch.linalg.pinv(resize.T)
    return torch.einsum("ai,bj,wcij->wcab", inverse, inverse, kernel.double()).to(kernel.dtype)


def _with_channels(
    kernel: Float[Tensor, "width old patch patch"], channels: int
) -> Float[Tensor, "width new patch patch"]:
    old = kernel.shape[1]
    if old == channels:
        return kernel
    return (kernel.mean(dim=1, keepdim=True) * (old / channels)).repeat(1, channels, 1, 1)


def _with_side(position: Float[Tensor, "1 old width"], given: ViTConfig, wanted: ViTConfig) -> Float[Tensor, "1 new w"]:
    old, new = (config.image_size // config.patch_size for config in (given, wanted))
    if old == new:
        return position
    matrix = interpolation_matrix(old, new, wanted.interpolation).to(position)
    plane = position[:, 1:].view(old, old, -1)
    patches = torch.einsum("ai,bj,ijd->abd", matrix, matrix, plane).flatten(0, 1)[None]
    return torch.cat([position[:, :1], patches], dim=1)
