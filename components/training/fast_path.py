"""Parameters that change how a backbone is computed, not what: activation checkpointing, compiled blocks."""

import shutil
from typing import cast

import torch
from torch import nn

from components.errors import UserError
from components.models.attention import packed_attention
from components.models.block import Block
from components.models.vit import VisionTransformer
from components.training.engine_config import EngineParams


def checkpoint_activations(module: nn.Module, params: EngineParams) -> None:
    """Tells every trained backbone whether to compute its blocks again in the backward pass."""
    for backbone in _backbones(module):
        backbone.recompute = params.activation_checkpointing


def compile_blocks(module: nn.Module, params: EngineParams, *, device: str) -> None:
    """Compiles each block of every backbone that runs, if asked for; they compile when they first run.

    One after the other: what a step reads out of the last block differs in number from step to step, and the code of
    a whole backbone would have to be made anew. Call it when DeepSpeed has laid its hands on the module.

    Raises:
        UserError: on a CPU without a C++ compiler.
    """
    if not params.compile:
        return
    if device == "cpu" and shutil.which("g++") is None:
        raise UserError(
            "engine.compile needs a C++ compiler, and there is no g++",
            remedy="install g++ (Debian, Ubuntu: apt-get install g++), or set engine.compile to false",
        )
    for backbone in _backbones(module):
        for block in backbone.blocks:
            if device == "cpu":
                # products into given memory, which a compiler cannot follow
                cast(Block, block).attention.attend = torch.compiler.disable(packed_attention)  # type: ignore[no-untyped-call]
            block.compile()


def _backbones(module: nn.Module) -> list[VisionTransformer]:
    return [found for found in module.modules() if isinstance(found, VisionTransformer)]
