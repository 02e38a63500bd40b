"""The JSON files of a Hugging Face folder: `config.json` and `preprocessor_config.json`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from components.errors import UserError
from components.models.conversion.imported import ImportOptions, check_heads, default_preprocess
from components.models.embedding import Interpolation
from components.models.preprocess import Preprocess
from components.models.vit import ViTConfig
from components.parameters import Params, validate

CONFIG = "config.json"
PROCESSOR = "preprocessor_config.json"
PLAIN = "dinov2"
WITH_REGISTERS = "dinov2_with_registers"
CLASSES = {PLAIN: "Dinov2Model", WITH_REGISTERS: "Dinov2WithRegistersModel"}
RULES: dict[str, Interpolation] = {PLAIN: "size", WITH_REGISTERS: "antialias"}
BICUBIC = 3
"""Pillow's number of the filter."""


class _Config(Params):
    """The part of `config.json` that decides what the model computes."""

    model_config = ConfigDict(extra="ignore")

    model_type: Literal["dinov2", "dinov2_with_registers"]
    hidden_size: int = Field(default=768, gt=0)
    num_hidden_layers: int = Field(default=12, gt=0)
    num_attention_heads: int = Field(default=12, gt=0)
    mlp_ratio: float = Field(default=4.0, gt=0)
    hidden_act: Literal["gelu"] = "gelu"
    layer_norm_eps: float = Field(default=1e-6, ge=1e-6, le=1e-6)
    image_size: int = Field(default=224, gt=0)
    patch_size: int | None = Field(default=None, gt=0)
    num_channels: int = Field(default=3, gt=0)
    qkv_bias: Literal[True] = True
    layerscale_value: float = 1.0
    drop_path_rate: float = 0.0
    use_swiglu_ffn: bool = False
    num_register_tokens: int = Field(default=4, ge=0)

    def architecture(self, options: ImportOptions) -> ViTConfig:
        """As ours; whatever the file leaves out has the default of transformers."""
        values = {
            "name": self.model_type,
            "image_size": self.image_size,
            "patch_size": self.patch_size or (14 if self.model_type == PLAIN else 16),
            "channels": self.num_channels,
            "width": self.hidden_size,
            "depth": self.num_hidden_layers,
            "heads": self.num_attention_heads,
            "ffn": "swiglu" if self.use_swiglu_ffn else "mlp",
            "ffn_ratio": self.mlp_ratio,
            "layer_scale": abs(self.layerscale_value),
            "registers": self.num_register_tokens if self.model_type == WITH_REGISTERS else 0,
            "drop_path": self.drop_path_rate,
            "interpolation": options.interpolation or RULES[self.model_type],
        }
        return validate(ViTConfig, values, where=CONFIG)


def read_config(folder: Path, options: ImportOptions, shown: str) -> ViTConfig:
    """The architecture that `config.json` describes.

    Raises:
        UserError: if it describes something that is computed otherwise here.
    """
    found = validate(_Config, read_object(folder / CONFIG, shown), where=f"{shown}: {CONFIG}")
    check_heads(found.num_attention_heads, options, shown)
    return found.architecture(options)


def read_preprocess(folder: Path, config: ViTConfig, shown: str) -> Preprocess:
    """How images are prepared: as the folder says, otherwise as usual.

    Raises:
        UserError: if the file is damaged.
    """
    usual = default_preprocess(config)
    if not (folder / PROCESSOR).is_file():
        return usual
    found = read_object(folder / PROCESSOR, shown)
    size, crop = found.get("size"), found.get("crop_size")
    values = {
        "image_size": crop.get("height", usual.image_size) if isinstance(crop, dict) else usual.image_size,
        "resize": size.get("shortest_edge", usual.resize) if isinstance(size, dict) else usual.resize,
        "mean": found.get("image_mean", usual.mean),
        "std": found.get("image_std", usual.std),
    }
    return validate(Preprocess, values, where=f"{shown}: {PROCESSOR}")


def write_descriptions(folder: Path, config: ViTConfig, kind: str, preprocess: Preprocess) -> None:
    """Write both files.

    Args:
        folder: that has the weights.
        config: the architecture.
        kind: `PLAIN` or `WITH_REGISTERS`.
        preprocess: how images are prepared.

    Raises:
        OSError: if the disk is full.
    """
    _write_json(folder / CONFIG, _description(config, kind))
    _write_json(folder / PROCESSOR, _processor(preprocess))


def _description(config: ViTConfig, kind: str) -> dict[str, Any]:
    registers = {"num_register_tokens": config.registers} if kind == WITH_REGISTERS else {}
    return {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "mlp_ratio": int(config.ffn_ratio),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": config.channels,
        "qkv_bias": True,
        "layerscale_value": 1.0 if config.layer_scale is None else config.layer_scale,
        "drop_path_rate": config.drop_path,
        "use_swiglu_ffn": config.ffn == "swiglu",
        **registers,
    }


def _processor(preprocess: Preprocess) -> dict[str, Any]:
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": len(preprocess.mean) == 3,
        "do_resize": True,
        "size": {"shortest_edge": preprocess.resize},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": preprocess.image_size, "width": preprocess.image_size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }


def read_object(path: Path, shown: str) -> dict[str, Any]:
    """Content of a JSON file of such a folder.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{shown}: {path.name} cannot be read ({error})", remedy="fetch the folder again") from None
    if not isinstance(content, dict):
        raise UserError(f"{shown}: {path.name} holds no JSON object", remedy="fetch the folder again")
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
