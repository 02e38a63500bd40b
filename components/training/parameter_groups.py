"""Which parameters share a learning rate and a weight decay, decided by name (DINOv2, appendix B)."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydantic import Field
from torch import nn

from components.parameters import Params

_BLOCK = re.compile(r"(?:^|\.)backbone\.blocks\.(\d+)\.")
_EMBEDDING = re.compile(r"(?:^|\.)backbone\.embedding\.")
_PATCH_EMBEDDING = re.compile(r"(?:^|\.)backbone\.embedding\.projection\.")
_LAST_LAYER = re.compile(r"(?:^|\.)prototypes\.")
_NOT_DECAYED = re.compile(r"\.bias$|(?:^|\.)norm\d*\.|\.gamma$")


class GroupParams(Params):
    """How learning rate and weight decay differ between parameters."""

    layer_decay: float = Field(
        default=1.0, gt=0, le=1, description="factor on the learning rate for each block below the top"
    )
    patch_embedding_lr: float = Field(
        default=0.2, ge=0, description="factor on the learning rate of the patch embedding"
    )


@dataclass
class ParameterGroup:
    """Parameters of one learning rate and one weight decay.

    Attributes:
        name: identifies the group; DeepSpeed drops empty groups, so that positions do not.
        lr_scale: factor on the scheduled learning rate.
        decayed: whether weight decay applies.
        last_layer: prototypes, whose learning rate is 0 while they are frozen.
        parameters: by name.
    """

    name: str
    lr_scale: float
    decayed: bool
    last_layer: bool
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)


def parameter_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]], params: GroupParams, *, depth: int
) -> list[ParameterGroup]:
    """Groups the trainable parameters.

    Weight decay is 0 for biases, norms and LayerScale gains only: class, position, mask and register tokens are
    decayed. For layer decay, the embedding is layer 0, block i layer i + 1, everything else layer depth + 1.

    Args:
        named_parameters: of the whole objective; those without gradient are left out.
        params: factors.
        depth: number of blocks of the trained backbone.

    Returns:
        Groups in the order of their first parameter, none of them empty.
    """
    groups: dict[str, ParameterGroup] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        scale = params.layer_decay ** (depth + 1 - _layer(name, depth))
        if _PATCH_EMBEDDING.search(name):
            scale *= params.patch_embedding_lr
        decayed = _NOT_DECAYED.search(name) is None
        last_layer = _LAST_LAYER.search(name) is not None
        key = f"lr*{scale:.6g}{' decayed' if decayed else ''}{' last layer' if last_layer else ''}"
        group = groups.setdefault(key, ParameterGroup(key, scale, decayed, last_layer))
        group.parameters[name] = parameter
    return list(groups.values())


def _layer(name: str, depth: int) -> int:
    if _EMBEDDING.search(name):
        return 0
    block = _BLOCK.search(name)
    return int(block.group(1)) + 1 if block else depth + 1
