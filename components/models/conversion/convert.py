"""Writes a backbone in any of the formats."""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save
from torch import Tensor

from components.errors import UserError
from components.models.backbone import HEADS, PREPROCESS, save_backbone, write_json
from components.models.conversion.huggingface import write_huggingface
from components.models.conversion.imported import Imported
from components.models.conversion.official import own_rule, write_official
from components.models.conversion.onnx_graph import write_onnx
from components.models.conversion.source import Source
from components.models.conversion.timm import RULE as TIMM_RULE
from components.models.conversion.timm import write_timm
from components.models.embedding import Interpolation
from components.models.heads import save_heads

Format = Literal["artifact", "official", "huggingface", "timm", "onnx"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES = {"official": ".pth", "timm": ".safetensors"}
"""Of formats that are one file; the others are folders."""


def check_target(target: Path, to: str) -> Format:
    """Refuse a target before any work.

    Args:
        target: file or folder to make.
        to: name of the format.

    Returns:
        The format.

    Raises:
        UserError: if the format is unknown, the name has another ending, or something is there.
    """
    known = next((one for one in FORMATS if one == to), None)
    if known is None:
        raise UserError(f"format '{to}' is unknown", remedy=f"choose one of {', '.join(FORMATS)}")
    suffix = SUFFIXES.get(to)
    if suffix is not None and target.suffix != suffix:
        raise UserError(f"{target}: a file of format {to} ends in {suffix}", remedy=f"name it {target.stem}{suffix}")
    if target.exists():
        raise UserError(f"{target}: exists", remedy="remove it, or name another target")
    return known


def write(source: Source, target: Path, to: Format) -> list[str]:
    """Write a backbone.

    Args:
        source: result of `read_source`.
        target: file or folder to make.
        to: its format.

    Returns:
        What gets lost or is computed otherwise there, in sentences.

    Raises:
        UserError: if the format has no such architecture.
        OSError: if the disk is full.
    """
    return _WRITERS[to](source, target)


def _artifact(source: Source, target: Path) -> list[str]:
    imported = source.imported
    card = f"# {imported.config.name}\n\nConverted; what it was made from is in `lineage.json`.\n"
    save_backbone(imported.model(str(target)), imported.preprocess, target, lineage=source.lineage, card=card)
    if imported.heads:
        save_heads(imported.heads, target / HEADS)
    return []


def _official(source: Source, target: Path) -> list[str]:
    imported = source.imported
    content = io.BytesIO()
    torch.save(_plain(write_official(imported.config, imported.tensors, imported.heads)), content)
    target.write_bytes(content.getbuffer())
    return _other_rule(imported, own_rule(registers=imported.config.registers > 0), "the official code")


def _huggingface(source: Source, target: Path) -> list[str]:
    imported = source.imported
    notes = write_huggingface(imported.config, imported.tensors, imported.preprocess, target)
    return notes + _without_heads(imported)


def _timm(source: Source, target: Path) -> list[str]:
    imported = source.imported
    target.write_bytes(save(_plain(write_timm(imported.config, imported.tensors)), metadata={"format": "pt"}))
    notes = _other_rule(imported, TIMM_RULE, "timm") + _without_heads(imported)
    return [*notes, "timm keeps no mask token: it is left out"]


def _onnx(source: Source, target: Path) -> list[str]:
    imported = source.imported
    write_onnx(imported.config, imported.tensors, target)
    write_json(target / PREPROCESS, imported.preprocess.model_dump(mode="json"))
    return _without_heads(imported)


_WRITERS: Mapping[Format, Callable[[Source, Path], list[str]]] = {
    "artifact": _artifact,
    "official": _official,
    "huggingface": _huggingface,
    "timm": _timm,
    "onnx": _onnx,
}


def _plain(state: Mapping[str, Any]) -> dict[str, Any]:
    """Whole tensors that share no memory, in nested dictionaries."""
    return {
        name: value.detach().cpu().contiguous().clone() if isinstance(value, Tensor) else _plain(value)
        for name, value in state.items()
    }


def _other_rule(imported: Imported, theirs: Interpolation, who: str) -> list[str]:
    config = imported.config
    if config.interpolation == theirs:
        return []
    return [
        f"at other sizes than {config.image_size} pixels, {who} interpolates the position embedding by the rule "
        f"'{theirs}', and this model by '{config.interpolation}'"
    ]


def _without_heads(imported: Imported) -> list[str]:
    return ["the prototype heads are left out: this format has no place for them"] if imported.heads else []
