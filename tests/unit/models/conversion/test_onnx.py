"""The exported graph computes what the model computes, at any batch and size."""

import json
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch

from components.models.backbone import save_backbone
from components.models.conversion import onnx_graph
from components.models.conversion.convert import write
from components.models.conversion.imported import ImportOptions
from components.models.conversion.source import read_source
from components.models.preprocess import Preprocess
from components.models.vit import VisionTransformer, ViTConfig

CASES: list[dict[str, Any]] = [
    {"interpolation": "antialias"},
    {"interpolation": "dinov2", "layer_scale": 0.5},
    {"interpolation": "size", "layer_scale": None, "channels": 1},
    {"interpolation": "antialias", "registers": 3, "ffn": "swiglu", "layer_scale": 0.5, "channels": 4},
]


def exported(folder: Path, overrides: dict[str, Any]) -> VisionTransformer:
    torch.manual_seed(0)
    values = {"image_size": 20, "patch_size": 4, "width": 64, "depth": 2, "heads": 4, **overrides}
    model = VisionTransformer(ViTConfig(**values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    channels = model.config.channels
    preprocess = Preprocess(image_size=20, resize=24, mean=(0.5,) * channels, std=(0.5,) * channels)
    save_backbone(model, preprocess, folder / "ours", lineage={}, card="")
    write(read_source(str(folder / "ours"), ImportOptions()), folder / "onnx", "onnx")
    return model


def session(folder: Path) -> onnxruntime.InferenceSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(folder / "onnx" / "model.onnx", settings, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("overrides", CASES)
def test_the_graph_gives_the_tokens_of_the_model_at_any_batch_and_size(
    tmp_path: Path, overrides: dict[str, Any]
) -> None:
    model = exported(tmp_path, overrides)
    run = session(tmp_path)
    for batch, grid in ((2, (5, 5)), (1, (8, 8)), (3, (3, 7)), (2, (5, 12)), (1, (2, 2))):
        images = torch.randn(batch, model.config.channels, grid[0] * 4, grid[1] * 4)
        with torch.no_grad():
            expected = model(images)
        names = [output.name for output in run.get_outputs()]
        found = dict(zip(names, run.run(None, {"images": images.numpy()}), strict=True))
        assert ("registers" in found) == (model.config.registers > 0)
        for name, value in found.items():
            assert (torch.from_numpy(value) - getattr(expected, name)).abs().max() <= 1e-5, (name, grid)


def test_the_graph_is_valid_and_says_what_is_free(tmp_path: Path) -> None:
    exported(tmp_path, {"registers": 2})
    model = onnx.load(tmp_path / "onnx" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    [images] = model.graph.input
    assert [one.dim_param or one.dim_value for one in images.type.tensor_type.shape.dim] == [
        "batch",
        3,
        "height",
        "width",
    ]


def test_how_images_are_prepared_lies_beside_it(tmp_path: Path) -> None:
    exported(tmp_path, {})
    assert json.loads((tmp_path / "onnx" / "preprocess.json").read_text())["resize"] == 24


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    exported(tmp_path / "a", {})
    exported(tmp_path / "b", {})
    left, right = (tmp_path / name / "onnx" / "model.onnx" for name in "ab")
    assert left.read_bytes() == right.read_bytes()


def test_weights_too_large_for_one_file_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "EXTERNAL_ABOVE", 1000)
    model = exported(tmp_path, {})
    assert (tmp_path / "onnx" / "model.onnx").stat().st_size < (tmp_path / "onnx" / "model.onnx.data").stat().st_size
    images = torch.randn(1, 3, 20, 20)
    [cls] = session(tmp_path).run(["cls"], {"images": images.numpy()})
    with torch.no_grad():
        assert (torch.from_numpy(cls) - model(images).cls).abs().max() <= 1e-5
