"""What a foreign file turns into, and the architecture that a bare state dict tells."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from pydantic import Field
from torch import Tensor

from components.errors import UserError
from components.imagenet import IMAGENET_MEAN, IMAGENET_STD
from components.models.embedding import Interpolation
from components.models.heads import PrototypeHead
from components.models.layers import swiglu_hidden
from components.models.preprocess import Preprocess, usual_resize
from components.models.vit import VisionTransformer, ViTConfig
from components.parameters import Params, validate

HEAD_WIDTH = 64
"""Of every published model of the family: a state dict does not tell its number of attention heads."""
USUAL_SIZE = 224
"""Pixels at which published models are evaluated, whatever size their position embedding is stored for."""
RGB = 3
FFN_RATIO = 4.0


class ImportOptions(Params):
    """What a foreign file may leave open."""

    heads: int | None = Field(default=None, gt=0, description="attention heads; null: as stated, or the width over 64")
    interpolation: Interpolation | None = Field(
        default=None, description="position embedding at other sizes; null: the rule of the library the file is from"
    )


@dataclass(frozen=True)
class Imported:
    """A backbone from another library.

    Attributes:
        config: its architecture.
        tensors: fp32 weights by the names of `VisionTransformer`.
        preprocess: how images are prepared for it.
        heads: prototype heads by name, where the file has them.
    """

    config: ViTConfig
    tensors: dict[str, Tensor]
    preprocess: Preprocess
    heads: dict[str, PrototypeHead] = field(default_factory=dict)

    def model(self, shown: str) -> VisionTransformer:
        """The backbone with these weights.

        Raises:
            UserError: as `check`.
        """
        model = self.check(shown)
        model.load_state_dict(self.tensors, assign=True)
        return model

    def check(self, shown: str) -> VisionTransformer:
        """Compare names and shapes with the architecture.

        Args:
            shown: name of the source, for messages.

        Returns:
            The backbone without weights.

        Raises:
            UserError: when weights are missing or have other shapes than the architecture asks for.
        """
        with torch.device("meta"):
            model = VisionTransformer(self.config)
        wanted = model.state_dict()
        missing = sorted(wanted.keys() - self.tensors.keys())
        odd = [name for name, value in self.tensors.items() if name not in wanted or wanted[name].shape != value.shape]
        if missing or odd:
            raise UserError(
                f"{shown}: weights do not make a vision transformer of width {self.config.width} and "
                f"{self.config.depth} blocks ({'missing' if missing else 'odd'}: {(missing or odd)[0]})",
                remedy="the file is incomplete or from another model: fetch it again",
            )
        return model


def infer_config(
    tensors: Mapping[str, Tensor], *, rule: Interpolation, options: ImportOptions, shown: str, name: str
) -> ViTConfig:
    """Architecture of a state dict with our names, its patch embedding still a convolution.

    Args:
        tensors: the weights.
        rule: interpolation of the library that the file is from.
        options: what was said beside the file.
        shown: name of the source, for messages.
        name: of the architecture, for people.

    Raises:
        UserError: if the weights are not those of a vision transformer, or leave the number of heads open.
    """
    for needed in ("embedding.projection.weight", "embedding.position", "blocks.0.norm1.weight"):
        if needed not in tensors:
            raise UserError(f"{shown}: holds no DINOv2 vision transformer", remedy="give the weights of a backbone")
    convolution = tensors["embedding.projection.weight"]
    if convolution.ndim != 4 or convolution.shape[-1] != convolution.shape[-2]:
        raise UserError(f"{shown}: its patches are not square", remedy="only square patches can be read")
    width, channels, patch = convolution.shape[0], convolution.shape[1], convolution.shape[-1]
    registers = tensors.get("embedding.registers")
    ffn = "swiglu" if "blocks.0.ffn.w3.weight" in tensors else "mlp"
    hidden = tensors["blocks.0.ffn.w3.weight" if ffn == "swiglu" else "blocks.0.ffn.fc2.weight"].shape[1]
    values = {
        "name": name,
        "image_size": _side(tensors["embedding.position"].shape[1] - 1, shown) * patch,
        "patch_size": patch,
        "channels": channels,
        "width": width,
        "depth": 1 + max(int(key.split(".")[1]) for key in tensors if key.startswith("blocks.")),
        "heads": _heads(width, options, shown),
        "ffn": ffn,
        "ffn_ratio": ffn_ratio(width, hidden, gated=ffn == "swiglu"),
        "layer_scale": 1e-5 if "blocks.0.scale1.gamma" in tensors else None,
        "registers": 0 if registers is None else registers.shape[1],
        "interpolation": options.interpolation or rule,
    }
    return validate(ViTConfig, values, where=shown)


def check_heads(stated: int, options: ImportOptions, shown: str) -> None:
    """Refuse another number of attention heads than a source states.

    Raises:
        UserError: naming both.
    """
    if options.heads not in (None, stated):
        raise UserError(f"{shown}: has {stated} attention heads, not {options.heads}", remedy="leave that option out")


def ffn_ratio(width: int, hidden: int, *, gated: bool) -> float:
    """The `ffn_ratio` that gives this hidden size: 4 if it can be."""
    if not gated:
        return hidden / width
    if swiglu_hidden(int(FFN_RATIO * width)) == hidden:
        return FFN_RATIO
    # two thirds of it, rounded up to a multiple of 8: several would do
    ratios = ((hidden * 3 // 2 - back) / width for back in range(12))
    return next((one for one in ratios if swiglu_hidden(int(width * one)) == hidden), hidden * 1.5 / width)


def default_preprocess(config: ViTConfig) -> Preprocess:
    """ImageNet statistics for three channels, none for others; 224 pixels or what the weights were stored for."""
    size = min(config.image_size, USUAL_SIZE // config.patch_size * config.patch_size or config.image_size)
    resize = usual_resize(size)
    if config.channels == RGB:
        return Preprocess(image_size=size, resize=resize, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    plain = (0.0,) * config.channels, (1.0,) * config.channels
    return Preprocess(image_size=size, resize=resize, mean=plain[0], std=plain[1])


def as_rows(convolution: Tensor) -> Tensor:
    """A patch convolution [width, channels, patch, patch] as the matrix of our patch embedding."""
    return convolution.flatten(1)


def as_convolution(rows: Tensor, config: ViTConfig) -> Tensor:
    """The inverse of `as_rows`."""
    return rows.reshape(config.width, config.channels, config.patch_size, config.patch_size)


def _side(patches: int, shown: str) -> int:
    side = math.isqrt(patches)
    if side * side != patches or not side:
        raise UserError(
            f"{shown}: its position embedding is for {patches} patches, no square",
            remedy="only embeddings of square images with a class token can be read",
        )
    return side


def _heads(width: int, options: ImportOptions, shown: str) -> int:
    if options.heads is None and width % HEAD_WIDTH:
        raise UserError(
            f"{shown}: the file does not say how many attention heads its width of {width} is divided among",
            remedy="name them with --heads",
        )
    return options.heads or width // HEAD_WIDTH
