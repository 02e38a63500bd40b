"""Weights of Hugging Face's `Dinov2Model` and `Dinov2WithRegistersModel`, as `save_pretrained` leaves them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from components.errors import UserError
from components.models.conversion.huggingface_config import (
    CLASSES,
    PLAIN,
    RULES,
    WITH_REGISTERS,
    read_config,
    read_object,
    read_preprocess,
    write_descriptions,
)
from components.models.conversion.imported import Imported, ImportOptions, as_convolution, as_rows
from components.models.conversion.naming import Naming
from components.models.conversion.pickles import load_pickle
from components.models.preprocess import Preprocess
from components.models.vit import ViTConfig

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
NAMING = Naming(
    blocks="encoder.layer",
    outer={
        "embeddings.cls_token": "embedding.cls_token",
        "embeddings.position_embeddings": "embedding.position",
        "embeddings.register_tokens": "embedding.registers",
        "embeddings.mask_token": "embedding.mask_token",
        "embeddings.patch_embeddings.projection": "embedding.projection",
        "layernorm": "norm",
    },
    block={
        "norm1": "norm1",
        "attention.qkv": "attention.qkv",
        "attention.output.dense": "attention.projection",
        "layer_scale1.lambda1": "scale1.gamma",
        "norm2": "norm2",
        "mlp.fc1": "ffn.fc1",
        "mlp.fc2": "ffn.fc2",
        "mlp.weights_in": "ffn.w12",
        "mlp.weights_out": "ffn.w3",
        "layer_scale2.lambda1": "scale2.gamma",
    },
)
ATTENTION = "attention.attention"
PARTS = ("query", "key", "value")
NEWER_NAMES = (
    ("attention.q_proj", f"{ATTENTION}.query"),
    ("attention.k_proj", f"{ATTENTION}.key"),
    ("attention.v_proj", f"{ATTENTION}.value"),
    ("attention.o_proj", "attention.output.dense"),
    ("mlp.down_proj", "mlp.weights_out"),
)
"""Names of transformers 5 and before; the older ones are written, because both versions read them."""


def read_huggingface(folder: Path, options: ImportOptions, shown: str) -> Imported:
    """A backbone from a folder that `save_pretrained` wrote.

    Args:
        folder: with `config.json` and weights.
        options: what was said beside the file.
        shown: name of the source, for messages.

    Raises:
        UserError: naming what is missing, unknown, or computed otherwise than here.
    """
    config = read_config(folder, options, shown)
    state = {_short(name): value.float() for name, value in _weights(folder, shown).items()}
    state = {name: value for name, value in state.items() if not name.startswith("classifier.")}
    tensors = NAMING.to_ours(_joined(state, config.depth, shown), shown)
    tensors.setdefault("embedding.mask_token", torch.zeros(1, config.width))
    if not config.registers:
        tensors.pop("embedding.registers", None)
    if "embedding.projection.weight" in tensors:
        tensors["embedding.projection.weight"] = as_rows(tensors["embedding.projection.weight"])
    return Imported(config, tensors, read_preprocess(folder, config, shown))


def write_huggingface(
    config: ViTConfig, tensors: Mapping[str, Tensor], preprocess: Preprocess, folder: Path
) -> list[str]:
    """Write a folder that `from_pretrained` loads.

    Args:
        config: the architecture.
        tensors: weights by our names.
        preprocess: how images are prepared.
        folder: to make.

    Returns:
        What the other library will do otherwise, in sentences.

    Raises:
        UserError: when it has no such architecture.
        OSError: if the disk is full.
    """
    if config.ffn_ratio != int(config.ffn_ratio):
        raise UserError(
            f"ffn_ratio {config.ffn_ratio:g} cannot be written for transformers, which takes whole ratios",
            remedy="convert to another format",
        )
    kind = WITH_REGISTERS if config.registers or config.interpolation == RULES[WITH_REGISTERS] else PLAIN
    state = _split(NAMING.to_theirs(tensors), config.depth)
    state["embeddings.patch_embeddings.projection.weight"] = as_convolution(
        state["embeddings.patch_embeddings.projection.weight"], config
    )
    if kind == WITH_REGISTERS and not config.registers:
        state["embeddings.register_tokens"] = torch.zeros(1, 0, config.width)
    if config.layer_scale is None:  # there, every model has one
        for block in range(config.depth):
            for name in ("layer_scale1.lambda1", "layer_scale2.lambda1"):
                state[f"encoder.layer.{block}.{name}"] = torch.ones(config.width)
    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: value.detach().cpu().contiguous() for name, value in state.items()}
    (folder / WEIGHTS).write_bytes(save(whole, metadata={"format": "pt"}))
    write_descriptions(folder, config, kind, preprocess)
    if config.interpolation == RULES[kind]:
        return []
    return [
        f"at other sizes than {config.image_size} pixels, {CLASSES[kind]} interpolates the position embedding by the "
        f"rule '{RULES[kind]}', and this model by '{config.interpolation}'"
    ]


def _weights(folder: Path, shown: str) -> dict[str, Tensor]:
    try:
        if (folder / WEIGHTS).is_file():
            return dict(load_file(folder / WEIGHTS))
        if (folder / INDEX).is_file():
            names = read_object(folder / INDEX, shown).get("weight_map", {})
            parts = sorted({Path(str(name)).name for name in names.values()})
            return {key: value for part in parts for key, value in load_file(folder / part).items()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{shown}: damaged weights ({error})", remedy="fetch the folder again") from None
    if (folder / PICKLED).is_file():
        return dict(load_pickle(folder / PICKLED, f"{shown}/{PICKLED}"))
    raise UserError(f"{shown}: {WEIGHTS} is missing", remedy="fetch the whole folder")


def _short(name: str) -> str:
    """Without the prefix of a model with a classifier, and with the older of two names."""
    name = name.removeprefix(f"{PLAIN}.").removeprefix(f"{WITH_REGISTERS}.")
    for newer, older in NEWER_NAMES:
        name = name.replace(newer, older)
    return name


def _joined(state: Mapping[str, Tensor], depth: int, shown: str) -> dict[str, Tensor]:
    """Queries, keys and values in one matrix, and gates with values where they are apart."""
    result = dict(state)
    groups = [([f"{ATTENTION}.{part}" for part in PARTS], "attention.qkv")]
    if any(".mlp.gate_proj." in name for name in state):
        groups.append((["mlp.gate_proj", "mlp.up_proj"], "mlp.weights_in"))
    for block in range(depth):
        for parts, whole in groups:
            for leaf in ("weight", "bias"):
                names = [f"encoder.layer.{block}.{part}.{leaf}" for part in parts]
                if absent := next((name for name in names if name not in result), None):
                    raise UserError(f"{shown}: {absent} is missing", remedy="fetch the whole folder")
                result[f"encoder.layer.{block}.{whole}.{leaf}"] = torch.cat([result.pop(name) for name in names])
    return result


def _split(state: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    result = dict(state)
    for block in range(depth):
        for leaf in ("weight", "bias"):
            whole = result.pop(f"encoder.layer.{block}.attention.qkv.{leaf}")
            for part, value in zip(PARTS, whole.chunk(len(PARTS)), strict=True):
                result[f"encoder.layer.{block}.{ATTENTION}.{part}.{leaf}"] = value
    return result
