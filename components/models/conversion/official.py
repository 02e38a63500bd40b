"""Official DINOv2 state dicts: released backbones, and training checkpoints that hold heads too."""

import re
from collections.abc import Mapping
from typing import Any

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
from components.models.heads import PrototypeHead, head_of
from components.models.vit import ViTConfig

NAMING = Naming(
    blocks="blocks",
    outer={
        "cls_token": "embedding.cls_token",
        "pos_embed": "embedding.position",
        "register_tokens": "embedding.registers",
        "mask_token": "embedding.mask_token",
        "patch_embed.proj": "embedding.projection",
        "norm": "norm",
    },
    block={
        "norm1": "norm1",
        "attn.qkv": "attention.qkv",
        "attn.proj": "attention.projection",
        "ls1.gamma": "scale1.gamma",
        "norm2": "norm2",
        "mlp.fc1": "ffn.fc1",
        "mlp.fc2": "ffn.fc2",
        "mlp.w12": "ffn.w12",
        "mlp.w3": "ffn.w3",
        "ls2.gamma": "scale2.gamma",
    },
)
CONTAINERS = ("teacher", "model", "state_dict")
HEADS = ("dino_head", "ibot_head")
GAINS = ("last_layer.weight_g", "last_layer.parametrizations.weight.original0")
DIRECTIONS = ("last_layer.weight_v", "last_layer.parametrizations.weight.original1")
_CHUNK = re.compile(r"^blocks\.\d+\.(\d+\.)")
_WRAPPERS = ("_fsdp_wrapped_module.", "_orig_mod.", "module.")


def unwrap(content: Any, shown: str) -> dict[str, Tensor]:
    """The teacher's (or the only) state dict in a loaded checkpoint, without the prefixes of wrappers.

    Raises:
        UserError: when there is no state dict.
    """
    for key in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{shown}: holds no weights", remedy="give a state dict, or a checkpoint with its teacher")
    state = {_bare(str(name)): value for name, value in content.items() if isinstance(value, Tensor)}
    teacher = {name.removeprefix("teacher."): value for name, value in state.items() if name.startswith("teacher.")}
    return teacher or state


def read_official(state: Mapping[str, Tensor], options: ImportOptions, shown: str) -> Imported:
    """A backbone, with its heads where the state dict has them.

    Args:
        state: result of `unwrap`.
        options: what was said beside the file.
        shown: name of the source, for messages.

    Raises:
        UserError: naming what is missing or unknown.
    """
    heads = {name: _head(state, name, shown) for name in HEADS if any(key.startswith(f"{name}.") for key in state)}
    bare = {key: value for key, value in state.items() if key.split(".")[0] not in HEADS}
    backbone = {_CHUNK.sub(r"blocks.\1", key.removeprefix("backbone.")): value.float() for key, value in bare.items()}
    tensors = NAMING.to_ours(backbone, shown)
    rule = own_rule(registers="embedding.registers" in tensors)
    config = infer_config(tensors, rule=rule, options=options, shown=shown, name="dinov2")
    tensors["embedding.projection.weight"] = as_rows(tensors["embedding.projection.weight"])
    return Imported(config, tensors, default_preprocess(config), heads)


def write_official(
    config: ViTConfig, tensors: Mapping[str, Tensor], heads: Mapping[str, PrototypeHead]
) -> dict[str, Any]:
    """Content of the file: a bare state dict, or a checkpoint of the teacher where there are heads.

    Args:
        config: the architecture.
        tensors: weights by our names.
        heads: prototype heads by name.
    """
    state = NAMING.to_theirs(tensors)
    state["patch_embed.proj.weight"] = as_convolution(state["patch_embed.proj.weight"], config)
    if not heads:
        return state
    teacher = {f"backbone.{name}": value for name, value in state.items()}
    for name, head in heads.items():
        for key, value in head.state_dict().items():
            if key == "prototypes.weight":
                teacher[f"{name}.last_layer.weight_v"] = value
                teacher[f"{name}.last_layer.weight_g"] = torch.ones(len(value), 1)
            else:
                teacher[f"{name}.{_mlp_name(key, head)}"] = value
    return {"teacher": teacher}


def own_rule(*, registers: bool) -> Interpolation:
    """How the official code interpolates position embeddings."""
    return "antialias" if registers else "dinov2"


def _bare(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _mlp_name(key: str, head: PrototypeHead) -> str:
    """An MLP of one layer is no sequence there."""
    return key.replace("mlp.0.", "mlp.") if len(head.mlp) == 1 else key


def _head(state: Mapping[str, Tensor], name: str, shown: str) -> PrototypeHead:
    own = {key.removeprefix(f"{name}."): value.float() for key, value in state.items() if key.startswith(f"{name}.")}
    result = {}
    for key, value in own.items():
        if key in GAINS:
            _check_gain(value, f"{shown}: {name}")
        elif key in DIRECTIONS:
            result["prototypes.weight"] = value
        else:
            result[re.sub(r"^mlp\.(weight|bias)$", r"mlp.0.\1", key)] = value
    try:
        return head_of(result)
    except (KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"{shown}: {name} is no DINOv2 head ({reason})", remedy="only heads without batch norm can be read"
        ) from None


def _check_gain(gain: Tensor, which: str) -> None:
    """Our prototypes are cosines: a gain would be lost."""
    if not torch.equal(gain, torch.ones_like(gain)):
        raise UserError(
            f"{which} has prototypes of gain {gain.min():.4g} to {gain.max():.4g}, not 1",
            remedy="give the backbone alone; training then begins with new heads",
        )
