import shutil

import pytest
import torch
from torch import nn

from components.errors import UserError
from components.models.vit import VisionTransformer, ViTConfig
from components.training.engine_config import EngineParams
from components.training.fast_path import checkpoint_activations, compile_blocks

CONFIG = ViTConfig(image_size=16, patch_size=4, width=16, depth=2, heads=2)


def pair() -> nn.ModuleDict:
    return nn.ModuleDict({"student": VisionTransformer(CONFIG), "teacher": VisionTransformer(CONFIG)})


def test_F16_compilation_without_a_compiler_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UserError, match=r"engine.compile needs a C\+\+ compiler"):
        compile_blocks(pair(), EngineParams(compile=True), device="cpu")
    compile_blocks(pair(), EngineParams(), device="cpu")


def test_blocks_are_left_alone_unless_asked_for() -> None:
    made = pair()
    compile_blocks(made, EngineParams(), device="cpu")
    assert all(block._compiled_call_impl is None for model in made.values() for block in model.blocks)


def test_every_backbone_is_told_to_compute_its_blocks_again() -> None:
    made = pair()
    checkpoint_activations(made, EngineParams(activation_checkpointing=True))
    assert [model.recompute for model in made.values()] == [True, True]


def test_a_backbone_that_computes_its_blocks_again_needs_no_gradient_to_run() -> None:
    model = VisionTransformer(CONFIG)
    model.recompute = True
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 16, 16)).cls.shape == (1, 16)
