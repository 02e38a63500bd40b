"""Weights from official and timm state dicts compute what the original computes, and go back to the same bits."""

from pathlib import Path
from typing import Any

import pytest
import torch
from originals import Shape, official_forward, official_state, timm_forward, timm_state
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils import weight_norm

from components.errors import UserError
from components.models.backbone import load_backbone
from components.models.conversion.convert import write
from components.models.conversion.imported import ImportOptions
from components.models.conversion.source import read_source
from components.models.vit import VisionTransformer

SHAPES = [
    Shape(),
    Shape(registers=3),
    Shape(swiglu=True, registers=4),
    Shape(swiglu=True, channels=5, layer_scale=False),
    Shape(channels=1, width=128, heads=2, side=6, patch=2),
]
SIZES = [(5, 5), (8, 8), (3, 7), (5, 9)]
"""Patches of the images; the first is a size that weights are stored for."""


def tokens(model: VisionTransformer, images: Tensor) -> Tensor:
    with torch.no_grad():
        found = model(images)
    return torch.cat([found.cls[:, None], found.registers, found.patches], dim=1)


def images_of(shape: Shape, grid: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(grid[0])
    return torch.randn(2, shape.channels, grid[0] * shape.patch, grid[1] * shape.patch, generator=generator)


def options(shape: Shape) -> ImportOptions:
    return ImportOptions(heads=shape.heads)


@pytest.mark.parametrize("grid", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_official_weights_compute_what_the_official_code_computes(
    tmp_path: Path, shape: Shape, grid: tuple[int, int]
) -> None:
    state = official_state(shape)
    torch.save(state, tmp_path / "dinov2.pth")
    loaded = load_backbone(tmp_path / "dinov2.pth", options=options(shape))
    assert loaded.config.interpolation == ("antialias" if shape.registers else "dinov2")
    images = images_of(shape, grid)
    expected = official_forward(state, images, shape.heads)
    assert (tokens(loaded.model, images) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("grid", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
def test_timm_weights_compute_what_timm_computes(tmp_path: Path, shape: Shape, grid: tuple[int, int]) -> None:
    state = timm_state(official_state(shape))
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "timm.safetensors")
    loaded = load_backbone(tmp_path / "timm.safetensors", options=options(shape))
    images = images_of(shape, grid)
    expected = timm_forward(state, images, shape.heads)
    assert (tokens(loaded.model, images) - expected).abs().max() <= 1e-5


def test_the_rule_of_the_position_embedding_can_be_named(tmp_path: Path) -> None:
    shape = Shape()
    torch.save(official_state(shape), tmp_path / "dinov2.pth")
    images = images_of(shape, (8, 8))
    found = {
        rule: tokens(
            load_backbone(tmp_path / "dinov2.pth", options=ImportOptions(heads=4, interpolation=rule)).model, images
        )
        for rule in ("dinov2", "size", "antialias")
    }
    assert (found["dinov2"] - found["size"]).abs().max() > 1e-4
    assert (found["antialias"] - found["size"]).abs().max() > 1e-4


def same_bits(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("shape", SHAPES)
def test_official_weights_come_back_bit_for_bit(tmp_path: Path, shape: Shape) -> None:
    state = official_state(shape)
    torch.save(state, tmp_path / "in.pth")
    notes = write(read_source(str(tmp_path / "in.pth"), options(shape)), tmp_path / "out.pth", "official")
    assert notes == []
    assert same_bits(torch.load(tmp_path / "out.pth", weights_only=True), state)


@pytest.mark.parametrize("shape", SHAPES)
def test_timm_gets_what_its_own_conversion_makes_of_official_weights(tmp_path: Path, shape: Shape) -> None:
    state = official_state(shape)
    torch.save(state, tmp_path / "in.pth")
    notes = write(read_source(str(tmp_path / "in.pth"), options(shape)), tmp_path / "out.safetensors", "timm")
    assert same_bits(load_file(tmp_path / "out.safetensors"), timm_state(state))
    assert "mask token" in notes[-1]
    again = write(
        read_source(str(tmp_path / "out.safetensors"), options(shape)), tmp_path / "again.safetensors", "timm"
    )
    assert same_bits(load_file(tmp_path / "again.safetensors"), timm_state(state))
    assert len(again) == 1


def checkpoint(shape: Shape, *, chunks: bool = True, prefix: str = "", shared: bool = False) -> dict[str, Any]:
    """A training checkpoint as the official code writes it, with blocks in chunks."""
    teacher = {}
    for name, value in official_state(shape).items():
        name = name.replace("blocks.", "blocks.0.") if chunks else name
        teacher[f"{prefix}backbone.{name}"] = value
    generator = torch.Generator().manual_seed(5)
    heads = {"dino_head": 24} if shared else {"dino_head": 24, "ibot_head": 16}
    for head, prototypes in heads.items():
        for number, size in ((0, (32, shape.width)), (2, (32, 32)), (4, (8, 32))):
            teacher[f"{prefix}{head}.mlp.{number}.weight"] = torch.randn(*size, generator=generator)
            teacher[f"{prefix}{head}.mlp.{number}.bias"] = torch.randn(size[0], generator=generator)
        teacher[f"{prefix}{head}.last_layer.weight_g"] = torch.ones(prototypes, 1)
        teacher[f"{prefix}{head}.last_layer.weight_v"] = torch.randn(prototypes, 8, generator=generator)
    return {"teacher": teacher, "iteration": 7}


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_heads_of_a_training_checkpoint_come_with_it_and_go_back(tmp_path: Path, prefix: str, shared: bool) -> None:
    content = checkpoint(Shape(), prefix=prefix, shared=shared)
    torch.save(content, tmp_path / "in.pth")
    source = read_source(str(tmp_path / "in.pth"), ImportOptions(heads=4))
    assert list(source.imported.heads) == (["dino_head"] if shared else ["dino_head", "ibot_head"])
    write(source, tmp_path / "out.pth", "official")
    plain = checkpoint(Shape(), chunks=False, shared=shared)["teacher"]
    assert same_bits(torch.load(tmp_path / "out.pth", weights_only=True)["teacher"], plain)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
def test_a_head_gives_the_logits_of_the_official_one(tmp_path: Path) -> None:
    content = checkpoint(Shape())
    torch.save(content, tmp_path / "in.pth")
    state = {
        name.removeprefix("dino_head."): value
        for name, value in content["teacher"].items()
        if name.startswith("dino_head.")
    }
    mlp = torch.nn.Sequential(
        torch.nn.Linear(64, 32), torch.nn.GELU(), torch.nn.Linear(32, 32), torch.nn.GELU(), torch.nn.Linear(32, 8)
    )
    last = weight_norm(torch.nn.Linear(8, 24, bias=False))
    original = torch.nn.ModuleDict({"mlp": mlp, "last_layer": last})
    original.load_state_dict(state)
    rows = torch.randn(6, 64)
    expected = last(torch.nn.functional.normalize(mlp(rows), dim=-1))
    head = read_source(str(tmp_path / "in.pth"), ImportOptions(heads=4)).imported.heads["dino_head"]
    torch.testing.assert_close(head(rows), expected, rtol=0, atol=1e-5)


def test_heads_and_backbone_make_an_artifact_that_distillation_can_start_from(tmp_path: Path) -> None:
    from components.objectives.branch import Branch

    torch.save(checkpoint(Shape()), tmp_path / "in.pth")
    write(read_source(str(tmp_path / "in.pth"), ImportOptions(heads=4)), tmp_path / "artifact", "artifact")
    branch = Branch.load(tmp_path / "artifact")
    assert (branch.dino_head.prototypes.weight.shape, branch.ibot_head.prototypes.weight.shape) == ((24, 8), (16, 8))
    write(read_source(str(tmp_path / "artifact"), ImportOptions()), tmp_path / "out.pth", "official")
    plain = checkpoint(Shape(), chunks=False)["teacher"]
    assert same_bits(torch.load(tmp_path / "out.pth", weights_only=True)["teacher"], plain)


def gain(content: dict[str, Any]) -> None:
    content["teacher"]["dino_head.last_layer.weight_g"] *= 1.5


def batch_norm(content: dict[str, Any]) -> None:
    content["teacher"]["dino_head.mlp.1.weight"] = torch.ones(32)


def classifier(content: dict[str, Any]) -> None:
    content["teacher"]["backbone.head.weight"] = torch.ones(10, 64)


def no_class_token(content: dict[str, Any]) -> None:
    content["teacher"]["backbone.pos_embed"] = torch.ones(1, 25, 64)


def cut_off(content: dict[str, Any]) -> None:
    del content["teacher"]["backbone.blocks.0.1.mlp.fc2.bias"]


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (gain, "gain 1.5 to 1.5"),
        (batch_norm, "dino_head is no DINOv2 head"),
        (classifier, "no place for 'head.weight'"),
        (no_class_token, "24 patches, no square"),
        (cut_off, "missing: blocks.1.ffn.fc2.bias"),
        (lambda content: content["teacher"].clear(), "holds no weights"),
        (lambda content: content.update(teacher={"a": torch.ones(1)}), "no place for 'a'"),
    ],
)
def test_what_cannot_be_taken_without_loss_is_named(tmp_path: Path, harm: Any, says: str) -> None:
    content = checkpoint(Shape())
    harm(content)
    torch.save(content, tmp_path / "in.pth")
    with pytest.raises(UserError, match=says):
        load_backbone(tmp_path / "in.pth", options=ImportOptions(heads=4))


def test_open_number_of_attention_heads_is_asked_for(tmp_path: Path) -> None:
    shape = Shape(width=96, heads=3)
    torch.save(official_state(shape), tmp_path / "in.pth")
    with pytest.raises(UserError, match="--heads"):
        load_backbone(tmp_path / "in.pth")
    assert load_backbone(tmp_path / "in.pth", options=ImportOptions(heads=3)).config.heads == 3


def test_published_widths_have_heads_of_64(tmp_path: Path) -> None:
    torch.save(official_state(Shape(width=192, heads=3, depth=1)), tmp_path / "in.pth")
    assert load_backbone(tmp_path / "in.pth").config.heads == 3


def test_half_precision_is_widened(tmp_path: Path) -> None:
    state = {name: value.half() for name, value in official_state(Shape()).items()}
    torch.save(state, tmp_path / "in.pth")
    model = load_backbone(tmp_path / "in.pth", options=ImportOptions(heads=4)).model
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}
    assert torch.equal(model.norm.weight, state["norm.weight"].float())


def test_hash_of_a_file_is_compared_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "in.pth").write_bytes(b"anything")
    with pytest.raises(UserError, match="not the expected 000000000000"):
        load_backbone(tmp_path / "in.pth", expected_hash="0" * 64)
