"""Finds out which library a file or folder is from, and reads it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from components.errors import UserError
from components.models.conversion.huggingface import read_huggingface
from components.models.conversion.huggingface_config import CLASSES, CONFIG
from components.models.conversion.imported import Imported, ImportOptions
from components.models.conversion.official import read_official, unwrap
from components.models.conversion.pickles import load_pickle
from components.models.conversion.timm import is_timm, read_timm

SAFETENSORS = ".safetensors"
PICKLES = (".pth", ".pt", ".bin")


def is_foreign(path: Path) -> bool:
    """Whether this is a file of weights, or a folder of Hugging Face, rather than an artifact of ours."""
    if path.is_file():
        return path.suffix in (SAFETENSORS, *PICKLES)
    try:
        content = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "model_type" in content


def read_foreign(path: Path, options: ImportOptions, shown: str) -> Imported:
    """Read an official or timm state dict, or a folder of Hugging Face.

    Args:
        path: for which `is_foreign` holds.
        options: what the file may leave open.
        shown: name of the source, for messages.

    Raises:
        UserError: if it is refused, damaged, or no backbone of the DINOv2 family.
    """
    imported = _read(path, options, shown)
    imported.check(shown)
    return imported


def foreign_hash(path: Path) -> str:
    """SHA-256 (hexadecimal) of a file, or over names and contents of the files of a folder that decide the model."""
    if path.is_file():
        return _sha256(path)
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()):
        if file.is_file() and file.suffix in (SAFETENSORS, *PICKLES, ".json"):
            digest.update(f"{file.name}\0{_sha256(file)}\n".encode())
    return digest.hexdigest()


def _read(path: Path, options: ImportOptions, shown: str) -> Imported:
    if path.is_dir():
        kind = json.loads((path / CONFIG).read_text(encoding="utf-8"))["model_type"]
        if kind not in CLASSES:
            raise UserError(
                f"{shown}: model_type '{kind}' is no DINOv2 backbone", remedy=f"known are {', '.join(CLASSES)}"
            )
        return read_huggingface(path, options, shown)
    state = unwrap(_content(path, shown), shown)
    return read_timm(state, options, shown) if is_timm(state) else read_official(state, options, shown)


def _content(path: Path, shown: str) -> Mapping[str, Any]:
    if path.suffix != SAFETENSORS:
        content: Mapping[str, Any] = load_pickle(path, shown)
        return content
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{shown}: damaged ({error})", remedy="fetch the file again") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
