"""Images that must never be used: the list that a takedown leaves, and a manifest without them."""

import re
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from components.data.lock import write_whole
from components.data.manifest import Manifest
from components.data.tables import read_table
from components.errors import UserError

FORGOTTEN = "forgotten.parquet"
"""In the outs of `dedup`: those images of the manifest that are left out from there on."""
HEADER = "# SHA-256 of images that must never be used, one a line; see `selfsight forget`"
ID = re.compile("[0-9a-f]{64}")


def read_forgotten(path: Path) -> frozenset[str]:
    """Reads the ids of the images that must never be used.

    A missing list is an error, not an empty one: a takedown must not be undone by deleting a file.

    Args:
        path: text, one SHA-256 a line; a line that begins with `#` says nothing.

    Raises:
        UserError: if the file is absent, or a line is no SHA-256.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        remedy = "restore it with git; where no image was ever forgotten, make an empty file"
        raise UserError(f"{path}: no such file", remedy=remedy) from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: no list of images", remedy="restore it with git") from None
    for number, line in enumerate(lines, start=1):
        if not line.startswith("#") and not ID.fullmatch(line):
            raise UserError(f"{path}: line {number} is no SHA-256", remedy="restore it with git, or mend that line")
    return frozenset(line for line in lines if not line.startswith("#"))


def write_forgotten(ids: Collection[str], path: Path) -> None:
    """Writes the list sorted, replacing the file whole: its bytes depend on the ids only, not on their history."""
    write_whole("".join(f"{one}\n" for one in (HEADER, *sorted(ids))), path)


def usable(manifest: Manifest, forgotten: Collection[str]) -> Manifest:
    """The manifest without the rows of forgotten images, whatever they come from."""
    if not forgotten:
        return manifest
    gone = pa.array(sorted(forgotten), pa.string())

    def kept(table: pa.Table) -> pa.Table:
        return table.filter(pc.invert(pc.is_in(table["id"], value_set=gone)))

    truth = None if manifest.truth is None else kept(manifest.truth)
    return Manifest(kept(manifest.images), kept(manifest.sources), kept(manifest.locations), truth)


def read_left_out(dedup: Path) -> list[str]:
    """Ids of the images of the manifest that `dedup` left out as forgotten.

    Args:
        dedup: folder of its outs.

    Raises:
        UserError: if the table is absent or damaged.
    """
    ids: list[str] = read_table(dedup / FORGOTTEN, ["id"])["id"].to_pylist()
    return ids


def load_usable(manifest: Path, dedup: Path) -> Manifest:
    """What stages after `dedup` may use of a manifest.

    Args:
        manifest: folder of the manifest.
        dedup: folder of the outs of `dedup`, which name the images that it left out as forgotten.

    Raises:
        UserError: if a table is absent or damaged.
    """
    return usable(Manifest.load(manifest), read_left_out(dedup))
