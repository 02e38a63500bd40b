"""What people call an image, and its id."""

import hashlib
import re
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from components.data.forgotten import ID
from components.data.tables import read_table
from components.errors import UserError
from components.settings import Settings
from components.stages import paths

PREFIX = re.compile("[0-9a-f]{6,64}")
HOW = "give a file, its name or URI in the source, or its SHA-256 (at least 6 digits)"
SHOWN = 3
"""Images that an ambiguous name lists."""


class ImageNames:
    """Finds images by file, by name or URI in the source, or by id.

    Args:
        settings: where the project is.
        more: ids that are known although the manifest may not hold them, such as the forgotten ones.
    """

    def __init__(self, settings: Settings, more: Collection[str] = ()) -> None:
        table = settings.root / paths.MANIFEST / "sources.parquet"
        self._sources: pa.Table | None = read_table(table, ["id", "uri", "name"]) if table.exists() else None
        self._more = frozenset(more)

    def identify(self, image: str) -> frozenset[str]:
        """Ids of what is called so: one, or two where a file has changed since it was ingested under that name.

        Args:
            image: a path, a name or URI in the source, a prefix of a SHA-256, or a whole one, which need not be known.

        Raises:
            UserError: if there is no such image, or several, or it is a file that the manifest does not hold.
        """
        key = image.lower()
        digest = _digest_of_file(image)
        if digest is not None:
            return self._of_file(image, digest)
        if ID.fullmatch(key):
            return frozenset({key})
        found = self._called(image) or self._beginning_with(key)
        if len(found) > 1:
            listed = ", ".join(sorted(found)[:SHOWN])
            raise UserError(f"{image}: {len(found)} images are called so ({listed}…)", remedy="give one by its SHA-256")
        if not found and self._sources is None:
            raise UserError(f"{image}: no file, and there is no manifest to look in", remedy="`selfsight pull` first")
        if not found:
            raise UserError(f"{image}: no such image", remedy=HOW)
        return found

    def name(self, image_id: str) -> str:
        """A name in the source; empty where the manifest does not hold the image."""
        if self._sources is None:
            return ""
        names = self._sources.filter(pc.equal(self._sources["id"], image_id))["name"].to_pylist()
        return min(names, default="")

    def all_names(self) -> dict[str, str]:
        """A name in the source of every image of the manifest."""
        if self._sources is None:
            return {}
        return dict(zip(self._sources["id"].to_pylist(), self._sources["name"].to_pylist(), strict=True))

    def _of_file(self, image: str, digest: str) -> frozenset[str]:
        called = self._called(image)
        if called or digest in self._more or self.name(digest):
            return called | {digest}
        if members := self._members(Path(image).name):
            raise UserError(
                f"{image}: no image, but a file with {len(members)} of them",
                remedy=f"give those that are meant by name, such as {', '.join(members[:SHOWN])}",
            )
        raise UserError(
            f"{image}: not in the snapshot", remedy=f"give its name there, or its SHA-256, which is {digest}"
        )

    def _members(self, file: str) -> list[str]:
        """Names or URIs of the images that lie in a file of that name (tar, Parquet, video), sorted."""
        if self._sources is None:
            return []
        inside = f"(^|/){re.escape(file)}[/#]"
        for column in ("name", "uri"):
            hits = self._sources.filter(pc.match_substring_regex(self._sources[column], inside))
            if hits.num_rows:
                return sorted(hits[column].to_pylist())
        return []

    def _called(self, image: str) -> frozenset[str]:
        if self._sources is None:
            return frozenset()
        hit = pc.or_kleene(pc.equal(self._sources["name"], image), pc.equal(self._sources["uri"], image))
        return frozenset(self._sources.filter(hit)["id"].to_pylist())

    def _beginning_with(self, key: str) -> frozenset[str]:
        if not PREFIX.fullmatch(key):
            return frozenset()
        found = {one for one in self._more if one.startswith(key)}
        if self._sources is not None:
            ids = self._sources["id"]
            found.update(ids.filter(pc.starts_with(ids, key)).to_pylist())
        return frozenset(found)


def _digest_of_file(image: str) -> str | None:
    """SHA-256 of a file; None if it is none, or cannot be read: it may be a name all the same."""
    try:
        path = Path(image).expanduser()
        if not path.is_file():
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (OSError, RuntimeError):  # too long, forbidden, or the home of nobody
        return None
