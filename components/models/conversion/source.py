"""Reads a backbone with its heads, whatever it is and wherever it lies."""

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from components.errors import UserError
from components.models.backbone import HEADS, check_hash, load_backbone
from components.models.conversion.imported import Imported, ImportOptions, check_heads
from components.models.conversion.reading import foreign_hash, is_foreign, read_foreign
from components.models.fetching import fetch_folder, is_remote
from components.models.heads import load_heads


class Source(NamedTuple):
    """What was read, and what its artifact says it was made from."""

    imported: Imported
    lineage: dict[str, Any]


def read_source(uri: str, options: ImportOptions, *, expected_hash: str | None = None) -> Source:
    """Read a backbone, and its prototype heads where it has them.

    Args:
        uri: as for `load_backbone`.
        options: what a foreign file may leave open.
        expected_hash: as for `load_backbone`.

    Raises:
        UserError: if there is none, or it is refused or damaged, or another one than expected.
    """
    if not is_remote(uri):
        return _read(Path(uri), uri, options, expected_hash)
    with tempfile.TemporaryDirectory(prefix="selfsight-source-") as temporary:
        return _read(fetch_folder(uri, Path(temporary)), uri, options, expected_hash)


def _read(path: Path, shown: str, options: ImportOptions, expected_hash: str | None) -> Source:
    if is_foreign(path):
        digest = foreign_hash(path)
        check_hash(digest, expected_hash, shown)
        return Source(read_foreign(path, options, shown), {"converted_from_sha256": digest})
    backbone = load_backbone(path, expected_hash=expected_hash)
    config = backbone.config
    check_heads(config.heads, options, shown)
    if options.interpolation not in (None, config.interpolation):
        raise UserError(
            f"{shown}: its position embedding is interpolated by the rule '{config.interpolation}', not "
            f"'{options.interpolation}'",
            remedy="leave that option out",
        )
    heads = load_heads(path / HEADS) if (path / HEADS).is_file() else {}
    state = dict(backbone.model.state_dict())
    return Source(Imported(config, state, backbone.preprocess, heads), backbone.lineage)
