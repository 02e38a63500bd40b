"""State dicts of timm's vision transformers of the DINOv2 family."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from components.errors import UserError
from components.models.conversion.imported import (
    Imported,
    ImportOptions,
    as_convolution,
    as_rows,
    default_preprocess,
    infer_config,
)
from components.models.conversion.naming import Naming
from components.models.embedding import Interpolation
from components.models.vit import ViTConfig

RULE: Interpolation = "antialias"
_PLAIN = {
    "norm1": "norm1",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.projection",
    "ls1.gamma": "scale1.gamma",
    "norm2": "norm2",
    "ls2.gamma": "scale2.gamma",
}
_OUTER = {
    "cls_token": "embedding.cls_token",
    "reg_token": "embedding.registers",
    "pos_embed": "embedding.position",
    "patch_embed.proj": "embedding.projection",
    "norm": "norm",
}
MLP = Naming(blocks="blocks", outer=_OUTER, block={**_PLAIN, "mlp.fc1": "ffn.fc1", "mlp.fc2": "ffn.fc2"})
SWIGLU = Naming(blocks="blocks", outer=_OUTER, block={**_PLAIN, "mlp.fc1": "ffn.w12", "mlp.fc2": "ffn.w3"})


def is_timm(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is timm's and not the official one, which always has a mask token."""
    return "pos_embed" in state and "mask_token" not in state and "register_tokens" not in state


def read_timm(state: Mapping[str, Tensor], options: ImportOptions, shown: str) -> Imported:
    """A backbone; its mask token, which timm drops, becomes zero.

    Where the position embedding has no entry for the class token (models with registers), that entry has been added
    to the class token, and becomes zero.

    Args:
        state: weights by timm's names.
        options: what was said beside the file.
        shown: name of the source, for messages.

    Raises:
        UserError: naming what is missing or unknown.
    """
    values = {name: value.float() for name, value in state.items()}
    width = values["pos_embed"].shape[-1]
    registers = values["reg_token"].shape[1] if "reg_token" in values else 0
    if math.isqrt(entries := values["pos_embed"].shape[1]) ** 2 == entries:
        values["pos_embed"] = torch.cat([torch.zeros(1, 1, width), values["pos_embed"]], dim=1)
    elif registers and math.isqrt(entries - 1 - registers) ** 2 == entries - 1 - registers:
        raise UserError(
            f"{shown}: its position embedding has entries for the registers",
            remedy="only models with no_embed_class, as timm's DINOv2 has it, can be read",
        )
    tensors = (SWIGLU if _gated(values) else MLP).to_ours(values, shown)
    tensors["embedding.mask_token"] = torch.zeros(1, width)
    config = infer_config(tensors, rule=RULE, options=options, shown=shown, name="timm")
    tensors["embedding.projection.weight"] = as_rows(tensors["embedding.projection.weight"])
    return Imported(config, tensors, default_preprocess(config))


def write_timm(config: ViTConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights by timm's names, as its own conversion of official weights gives them.

    Args:
        config: the architecture.
        tensors: weights by our names.
    """
    state = {name: value for name, value in tensors.items() if name != "embedding.mask_token"}
    state = (SWIGLU if config.ffn == "swiglu" else MLP).to_theirs(state)
    state["patch_embed.proj.weight"] = as_convolution(state["patch_embed.proj.weight"], config)
    if config.registers:
        state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
        state["pos_embed"] = state["pos_embed"][:, 1:]
    return state


def _gated(values: Mapping[str, Tensor]) -> bool:
    first, second = values.get("blocks.0.mlp.fc1.weight"), values.get("blocks.0.mlp.fc2.weight")
    return first is not None and second is not None and first.shape[0] == 2 * second.shape[1]
