"""The manifest: the only truth about the data."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from components.data.lock import Role
from components.data.shards import LOCATIONS
from components.data.tables import read_table, write_table

IMAGES = pa.schema(
    [
        ("id", pa.string()),  # SHA-256 of the bytes, hexadecimal
        ("format", pa.string()),  # JPEG, PNG, …; null if unknown
        ("width", pa.int32()),  # pixels, as seen upright
        ("height", pa.int32()),
        ("phash", pa.uint64()),  # null if quarantined
        ("status", pa.string()),  # ok, quarantined
        ("reason", pa.string()),  # of the quarantine
    ]
)
"""One row for each distinct image, sorted by id."""
SOURCES = pa.schema(
    [
        ("id", pa.string()),
        ("uri", pa.string()),  # of the object
        ("name", pa.string()),  # within its source, as in the lock
        ("split", pa.string()),  # train, eval
        ("label", pa.string()),
        ("group", pa.string()),
        ("frame", pa.int64()),
    ]
)
"""One row for each object of the lock, sorted by (id, split, uri, name); bytes may come from several places."""


@dataclass(frozen=True)
class Manifest:
    """The tables of `data/manifest`."""

    images: pa.Table
    sources: pa.Table
    locations: pa.Table
    truth: pa.Table | None = None
    """Ground truth of generated images: `id`, `name`, `kind`, `original`, …"""

    @classmethod
    def load(cls, folder: Path) -> "Manifest":
        """Reads the manifest.

        Raises:
            UserError: if a table is absent or damaged.
        """
        truth = folder / "truth.parquet"
        return cls(
            images=read_table(folder / "images.parquet"),
            sources=read_table(folder / "sources.parquet"),
            locations=read_table(folder / "locations.parquet"),
            truth=read_table(truth) if truth.exists() else None,
        )

    def save(self, folder: Path) -> None:
        """Writes the tables, each in its order, into an existing folder."""
        write_table(self.images.cast(IMAGES).sort_by("id"), folder / "images.parquet")
        order = [("id", "ascending"), ("split", "ascending"), ("uri", "ascending"), ("name", "ascending")]
        write_table(self.sources.cast(SOURCES).sort_by(order), folder / "sources.parquet")
        write_table(self.locations.cast(LOCATIONS).sort_by("id"), folder / "locations.parquet")
        if self.truth is not None:
            write_table(self.truth, folder / "truth.parquet")

    def ids(self, split: Role | None = None, status: str = "ok") -> list[str]:
        """Ids of a split, sorted. An image that comes from both splits is in both: an exact leak.

        Args:
            split: `train`, `eval`, or None for both.
            status: `ok` or `quarantined`.
        """
        chosen = self.images.filter(pc.equal(self.images["status"], status))["id"]
        if split is not None:
            of_split = self.sources.filter(pc.equal(self.sources["split"], split))["id"]
            chosen = chosen.filter(pc.is_in(chosen, value_set=of_split.combine_chunks()))
        return sorted(chosen.to_pylist())

    def labels(self, ids: Iterable[str]) -> list[str | None]:
        """Labels of images; None where there is none, or where two sources of the same bytes disagree."""
        return [self._labels.get(one) for one in ids]

    def groups(self, ids: Iterable[str]) -> list[str | None]:
        """Groups (video or instance) of images; None where there is none. Of several the first by name."""
        return [self._groups.get(one) for one in ids]

    @cached_property
    def class_names(self) -> list[str]:
        """All labels, sorted."""
        return sorted(pc.unique(self.sources["label"]).drop_null().to_pylist())

    @cached_property
    def _labels(self) -> dict[str, str]:
        found = self._known("label")
        return {one: next(iter(labels)) for one, labels in found.items() if len(labels) == 1}

    @cached_property
    def _groups(self) -> dict[str, str]:
        return {one: min(groups) for one, groups in self._known("group").items()}

    def _known(self, column: str) -> dict[str, set[str]]:
        rows = self.sources.filter(pc.is_valid(self.sources[column]))
        found: dict[str, set[str]] = {}
        for one, value in zip(rows["id"].to_pylist(), rows[column].to_pylist(), strict=True):
            found.setdefault(one, set()).add(value)
        return found
