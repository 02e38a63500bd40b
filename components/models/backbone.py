"""The backbone artifact: a directory that is registered, shared and served."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from components.errors import UserError
from components.models.conversion.imported import ImportOptions
from components.models.conversion.reading import foreign_hash, is_foreign, read_foreign
from components.models.fetching import fetch_folder, is_remote
from components.models.preprocess import Preprocess as Preprocess
from components.models.vit import VisionTransformer, ViTConfig
from components.parameters import Params, validate

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PREPROCESS = "preprocess.json"
LINEAGE = "lineage.json"
CARD = "README.md"
HEADS = "heads.safetensors"
REQUIRED_FILES = (CONFIG, WEIGHTS, PREPROCESS, LINEAGE, CARD)
ARTIFACT_FILES = (*REQUIRED_FILES, HEADS)
FORMAT = 1

P = TypeVar("P", bound=Params)


class _Description(Params):
    """Content of `config.json`."""

    format: int
    architecture: ViTConfig
    weights_sha256: str


@dataclass(frozen=True)
class Backbone:
    """A loaded backbone artifact.

    Attributes:
        model: in evaluation mode, on the CPU, frozen.
        config: its architecture.
        preprocess: how images are prepared for it.
        lineage: what it was made from.
        digest: `artifact_hash` of the directory.
    """

    model: VisionTransformer
    config: ViTConfig
    preprocess: Preprocess
    lineage: dict[str, Any]
    digest: str


def save_backbone(
    model: VisionTransformer, preprocess: Preprocess, folder: Path, *, lineage: Mapping[str, Any], card: str
) -> None:
    """Write a backbone artifact; the same content gives the same bytes.

    Args:
        model: whole (not partitioned) weights, in the precision to store.
        preprocess: how images are prepared for it.
        folder: directory to write into; made when missing. Atomicity is the caller's (`publish`).
        lineage: hashes that name what the weights were made from, JSON values.
        card: the model card, Markdown.

    Raises:
        OSError: if the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    # not save_file: with a full disk it raises an error of its own that only words tell from any other
    (folder / WEIGHTS).write_bytes(save(tensors))
    description = _Description(format=FORMAT, architecture=model.config, weights_sha256=_sha256(folder / WEIGHTS))
    write_json(folder / CONFIG, description.model_dump(mode="json"))
    write_json(folder / PREPROCESS, preprocess.model_dump(mode="json"))
    write_json(folder / LINEAGE, dict(lineage))
    (folder / CARD).write_text(card, encoding="utf-8")


def load_backbone(
    uri: str | Path, *, expected_hash: str | None = None, options: ImportOptions | None = None
) -> Backbone:
    """Load a backbone.

    Args:
        uri: a directory, `models:/name@alias`, `models:/name/version`, `runs:/…` or `s3://bucket/prefix` that holds an
            artifact or what Hugging Face's `save_pretrained` wrote for a Dinov2 model; or a file of weights, official
            DINOv2 (`.pth`) or timm's.
        expected_hash: refuse anything else than the artifact of this `artifact_hash`, or the source of this
            `foreign_hash`.
        options: what a source that is no artifact may leave open.

    Raises:
        UserError: when it is missing, incomplete or damaged, when weights and configuration do not belong together,
            when the hash is not the expected one, or when a file asks for code to be run.
    """
    if not is_remote(str(uri)):
        return _load(Path(uri), str(uri), expected_hash, options)
    with tempfile.TemporaryDirectory(prefix="selfsight-backbone-") as temporary:
        return _load(fetch_folder(str(uri), Path(temporary)), str(uri), expected_hash, options)


def check_hash(digest: str, expected: str | None, shown: str) -> None:
    """Refuse a source of another hash than expected.

    Raises:
        UserError: naming both.
    """
    if expected is not None and digest != expected:
        raise UserError(
            f"{shown}: its hash is {digest[:12]}…, not the expected {expected[:12]}…",
            remedy="fetch the artifact again, or name the version that is meant",
        )


def artifact_hash(folder: Path) -> str:
    """SHA-256 (hexadecimal) over names and contents of the artifact's files; other files do not count."""
    digest = hashlib.sha256()
    for name in sorted(ARTIFACT_FILES):
        if (folder / name).is_file():
            digest.update(f"{name}\0{_sha256(folder / name)}\n".encode())
    return digest.hexdigest()


def _load(path: Path, shown: str, expected_hash: str | None, options: ImportOptions | None) -> Backbone:
    if not is_foreign(path):
        return _load_folder(path, shown, expected_hash)
    digest = foreign_hash(path)
    check_hash(digest, expected_hash, shown)
    imported = read_foreign(path, options or ImportOptions(), shown)
    model = imported.model(shown).eval().requires_grad_(requires_grad=False)
    return Backbone(model, imported.config, imported.preprocess, {"converted_from_sha256": digest}, digest)


def _load_folder(folder: Path, shown: str, expected_hash: str | None) -> Backbone:
    if not folder.is_dir():
        raise UserError(f"{shown}: no such backbone", remedy="give the directory of a backbone artifact, or its URI")
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{shown}: {', '.join(missing)} is missing",
            remedy="give a complete artifact; `dvc pull` fetches it",
        )
    digest = artifact_hash(folder)
    check_hash(digest, expected_hash, shown)
    description = _read(folder / CONFIG, _Description, shown)
    if description.format != FORMAT:
        raise UserError(
            f"{shown}: artifact format {description.format} is unknown", remedy="use a newer selfsight, or export again"
        )
    if _sha256(folder / WEIGHTS) != description.weights_sha256:
        raise UserError(
            f"{shown}: {WEIGHTS} does not match its hash in {CONFIG}", remedy="the file is damaged: fetch it again"
        )
    return Backbone(
        model=_load_model(folder / WEIGHTS, description.architecture, shown),
        config=description.architecture,
        preprocess=_read(folder / PREPROCESS, Preprocess, shown),
        lineage=_read_json(folder / LINEAGE, shown),
        digest=digest,
    )


def _load_model(path: Path, config: ViTConfig, shown: str) -> VisionTransformer:
    with torch.device("meta"):
        model = VisionTransformer(config)
    try:
        tensors = load_file(path)
        model.load_state_dict(tensors, assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise UserError(
            f"{shown}: {WEIGHTS} does not fit {CONFIG} ({_first_mismatch(model, error)})",
            remedy="weights and configuration come from different models: fetch the artifact again",
        ) from None
    return model.eval().requires_grad_(requires_grad=False)


def _first_mismatch(model: VisionTransformer, error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[min(1, len(lines) - 1)].strip() if lines else type(error).__name__


def _read(path: Path, model: type[P], shown: str) -> P:
    return validate(model, _read_json(path, shown), where=f"{shown}: {path.name}")


def _read_json(path: Path, shown: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{shown}: {path.name} is no JSON ({error})", remedy="fetch the artifact again") from None
    if not isinstance(content, dict):
        raise UserError(f"{shown}: {path.name} holds no JSON object", remedy="fetch the artifact again")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one of an artifact's small files; the same content gives the same bytes."""
    path.write_text(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
