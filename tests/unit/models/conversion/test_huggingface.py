"""Parity with the models of `transformers`, in both directions."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from originals import Shape, official_state
from safetensors.torch import save_file
from torch import Tensor

from components.errors import UserError
from components.models.backbone import load_backbone, save_backbone
from components.models.conversion.convert import write
from components.models.conversion.imported import ImportOptions
from components.models.conversion.source import read_source
from components.models.preprocess import Preprocess
from components.models.vit import VisionTransformer, ViTConfig

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 20,
    "patch_size": 4,
    "layerscale_value": 0.5,
}
KINDS = {
    "plain": (transformers.Dinov2Model, transformers.Dinov2Config, {}),
    "swiglu": (transformers.Dinov2Model, transformers.Dinov2Config, {"use_swiglu_ffn": True, "num_channels": 5}),
    "registers": (transformers.Dinov2WithRegistersModel, transformers.Dinov2WithRegistersConfig, {}),
    "swiglu-registers": (
        transformers.Dinov2WithRegistersModel,
        transformers.Dinov2WithRegistersConfig,
        {"use_swiglu_ffn": True, "num_register_tokens": 2, "num_channels": 1},
    ),
}


def original(kind: str) -> Any:
    model_class, config_class, overrides = KINDS[kind]
    torch.manual_seed(0)
    model = model_class(config_class(**SMALL, **overrides)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def images(channels: int, grid: tuple[int, int]) -> Tensor:
    return torch.randn(2, channels, grid[0] * 4, grid[1] * 4, generator=torch.Generator().manual_seed(grid[1]))


def tokens(model: VisionTransformer, batch: Tensor) -> Tensor:
    with torch.no_grad():
        found = model(batch)
    return torch.cat([found.cls[:, None], found.registers, found.patches], dim=1)


@pytest.mark.parametrize("grid", [(5, 5), (8, 8), (3, 7)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_transformers_computes_the_same_here(tmp_path: Path, kind: str, grid: tuple[int, int]) -> None:
    model = original(kind)
    model.save_pretrained(tmp_path / "hf")
    loaded = load_backbone(tmp_path / "hf")
    assert loaded.config.interpolation == ("antialias" if "registers" in kind else "size")
    batch = images(model.config.num_channels, grid)
    with torch.no_grad():
        expected = model(batch).last_hidden_state
    assert (tokens(loaded.model, batch) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_transformers_5_are_read_as_those_of_4(tmp_path: Path, kind: str) -> None:
    model = original(kind)
    model.save_pretrained(tmp_path / "hf")
    expected = load_backbone(tmp_path / "hf").model.state_dict()
    newer = {name: value.contiguous() for name, value in model.state_dict().items()}
    assert "encoder.layer.0.attention.q_proj.weight" in newer
    save_file(newer, tmp_path / "hf" / "model.safetensors")
    found = load_backbone(tmp_path / "hf").model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_classifier_gives_its_backbone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.Dinov2ForImageClassification(transformers.Dinov2Config(**SMALL)).eval()
    model.save_pretrained(tmp_path / "hf")
    batch = images(3, (5, 5))
    with torch.no_grad():
        expected = model.dinov2(batch).last_hidden_state
    assert (tokens(load_backbone(tmp_path / "hf").model, batch) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_folder_holds_the_weights_of_the_original(tmp_path: Path, kind: str) -> None:
    model = original(kind)
    model.save_pretrained(tmp_path / "hf")
    assert write(read_source(str(tmp_path / "hf"), ImportOptions()), tmp_path / "again", "huggingface") == []
    again = KINDS[kind][0].from_pretrained(tmp_path / "again")
    state, expected = again.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def ours(**overrides: Any) -> VisionTransformer:
    torch.manual_seed(1)
    values = {"image_size": 20, "patch_size": 4, "width": 64, "depth": 2, "heads": 4, **overrides}
    model = VisionTransformer(ViTConfig(**values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def artifact(folder: Path, model: VisionTransformer) -> str:
    channels = model.config.channels
    preprocess = Preprocess(image_size=16, resize=20, mean=(0.25,) * channels, std=(0.5,) * channels)
    save_backbone(model, preprocess, folder, lineage={}, card="")
    return str(folder)


@pytest.mark.parametrize(
    "overrides",
    [
        {"interpolation": "size"},
        {"interpolation": "size", "layer_scale": None, "channels": 2},
        {"interpolation": "antialias"},
        {"interpolation": "antialias", "registers": 4, "ffn": "swiglu"},
        {"interpolation": "antialias", "registers": 1, "ffn_ratio": 3.0, "drop_path": 0.1},
    ],
)
def test_our_models_compute_the_same_in_transformers_at_any_size(tmp_path: Path, overrides: dict[str, Any]) -> None:
    model = ours(**overrides)
    assert write(read_source(artifact(tmp_path / "ours", model), ImportOptions()), tmp_path / "hf", "huggingface") == []
    theirs, report = transformers.AutoModel.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for grid in ((5, 5), (9, 6)):
        batch = images(model.config.channels, grid)
        with torch.no_grad():
            expected = theirs.eval()(batch).last_hidden_state
        assert (tokens(model, batch) - expected).abs().max() <= 1e-5


def test_another_rule_of_interpolation_is_said_and_native_size_stays_the_same(tmp_path: Path) -> None:
    model = ours(interpolation="dinov2")
    notes = write(read_source(artifact(tmp_path / "ours", model), ImportOptions()), tmp_path / "hf", "huggingface")
    assert len(notes) == 1
    assert "'size', and this model by 'dinov2'" in notes[0]
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    with torch.no_grad():
        expected = theirs(images(3, (5, 5))).last_hidden_state
    assert (tokens(model, images(3, (5, 5))) - expected).abs().max() <= 1e-5


def test_official_weights_compute_the_same_in_transformers_at_native_size(tmp_path: Path) -> None:
    torch.save(official_state(Shape(registers=4)), tmp_path / "in.pth")
    source = read_source(str(tmp_path / "in.pth"), ImportOptions(heads=4))
    write(source, tmp_path / "hf", "huggingface")
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "hf").eval()
    batch = images(3, (7, 7))
    with torch.no_grad():
        expected = theirs(batch).last_hidden_state
    assert (tokens(source.imported.model("").eval(), batch) - expected).abs().max() <= 1e-5


def test_how_images_are_prepared_goes_both_ways(tmp_path: Path) -> None:
    write(read_source(artifact(tmp_path / "ours", ours()), ImportOptions()), tmp_path / "hf", "huggingface")
    found = load_backbone(tmp_path / "hf").preprocess
    assert found == Preprocess(image_size=16, resize=20, mean=(0.25,) * 3, std=(0.5,) * 3)


def test_sharded_weights_are_read_whole(tmp_path: Path) -> None:
    model = original("plain")
    model.save_pretrained(tmp_path / "hf", max_shard_size="100KB")
    assert (tmp_path / "hf" / "model.safetensors.index.json").is_file()
    assert torch.equal(load_backbone(tmp_path / "hf").model.norm.weight, model.layernorm.weight)


def edit(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda folder: edit(folder, model_type="vit"), "model_type 'vit' is no DINOv2 backbone"),
        (lambda folder: edit(folder, hidden_act="relu"), "'hidden_act' is 'relu'"),
        (lambda folder: edit(folder, qkv_bias=False), "'qkv_bias' is False"),
        (lambda folder: edit(folder, layer_norm_eps=1e-5), "'layer_norm_eps' is 1e-05"),
        (lambda folder: edit(folder, num_hidden_layers=3), "encoder.layer.2.attention.attention.query.weight is miss"),
        (lambda folder: edit(folder, num_hidden_layers=1), "no place for 'encoder.layer.1"),
        (lambda folder: edit(folder, hidden_size=128), "odd: "),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (cut, "damaged weights"),
    ],
)
def test_a_folder_that_is_no_whole_dinov2_is_refused(tmp_path: Path, harm: Callable[[Path], object], says: str) -> None:
    original("plain").save_pretrained(tmp_path / "hf")
    harm(tmp_path / "hf")
    with pytest.raises(UserError, match=says):
        load_backbone(tmp_path / "hf")


def test_a_broken_ratio_cannot_be_written(tmp_path: Path) -> None:
    model = ours(ffn_ratio=2.5)
    with pytest.raises(UserError, match=r"ffn_ratio 2\.5"):
        write(read_source(artifact(tmp_path / "ours", model), ImportOptions()), tmp_path / "hf", "huggingface")
