"""Images in the rows of Parquet files, as Hugging Face data sets have them."""

import json
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components.data.lock import FRAMES, Annotation
from components.data.sources.containers import Container, Place
from components.data.sources.digests import digest_of
from components.data.sources.listings import Member, in_threads
from components.data.sources.selection import Selection
from components.errors import UserError

IMAGE_COLUMN = "image"
ANNOTATION_COLUMNS = ("label", "group", "frame")
ROWS = 32
"""Rows whose images are in memory at once."""


class Parquets:
    """Parquet files with image bytes; see `ParquetFile`."""

    reader = "parquet 1"

    def selection(self, given: Selection) -> Selection:
        """Every row is an image."""
        return given.of_everything()

    def open(self, place: Place) -> Container:
        """Opens a Parquet file."""
        return ParquetFile(place)


class ParquetFile:
    """A table with the bytes of one image a row.

    The images are in the column `image`, else in the only column that can hold them: a struct with a field `bytes`,
    or bytes. A row is named by its number, followed by the base name of the struct's `path` where there is one. The
    columns `label` (text, or a number that the table's Hugging Face metadata name), `group` and `frame` are
    annotations. Rows without bytes are left out.

    Args:
        place: the file.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._group = -1
        self._first = 0
        self._images: pa.Array | None = None

    def members(self, threads: int) -> Iterator[Member]:
        """Yields every row that has bytes, with size, SHA-256 and annotation."""
        there = self._file.schema_arrow.names
        columns = [self._column, *(name for name in ANNOTATION_COLUMNS if name in there)]
        row = 0
        with self._explained():
            for batch in self._file.iter_batches(batch_size=ROWS, columns=columns):
                images, paths = _bytes_and_paths(batch.column(0))
                said = self._annotations(batch, row)
                held = [index for index in range(len(images)) if images[index].is_valid]
                names = [_row_name(row + index, paths[index]) for index in held]
                buffers = [images[index].as_buffer() for index in held]
                for name, index, buffer, digest in zip(
                    names, held, buffers, in_threads(digest_of, buffers, threads), strict=True
                ):
                    yield Member(name, buffer.size, digest, said[index])
                row += len(batch)

    def read(self, member: str, digest: str | None) -> bytes:
        """Returns the bytes of a row, see `Container.read`; rows in order are read once."""
        number = member.partition("-")[0]
        with self._explained():
            if not number.isdecimal() or int(number) >= self._file.metadata.num_rows:
                raise self._place.lacks(member)
            value = self._seek(int(number))
        data = value.as_py() if value.is_valid else None
        if data is None or (digest is not None and digest_of(data) != digest):
            raise self._place.changed(member)
        return bytes(data)

    def prepare(self) -> None:
        """Maps the file."""
        with self._explained():
            self._mapped  # noqa: B018

    def _seek(self, row: int) -> pa.Scalar:
        group = bisect_right(self._starts, row) - 1
        if group != self._group or row < self._first:
            self._batches = self._file.iter_batches(batch_size=ROWS, row_groups=[group], columns=[self._column])
            self._group, self._first, self._images = group, self._starts[group], None
        while self._images is None or row >= self._first + len(self._images):
            self._first += 0 if self._images is None else len(self._images)
            batch = next(self._batches, None)
            if batch is None:
                raise pa.ArrowInvalid("rows are missing")
            self._images = _bytes_and_paths(batch.column(0))[0]
        return self._images[row - self._first]

    def _annotations(self, batch: pa.RecordBatch, first: int) -> list[Annotation]:
        """What the columns beside the images say about each row of a batch, `first` being the number of its first."""
        found = []
        for row, values in enumerate(zip(*_said(batch, self._class_names), strict=True), start=first):
            try:
                found.append(Annotation(*values))
            except ValueError:
                message = f"{self._place.uri}: row {row}: no annotation in the columns {', '.join(ANNOTATION_COLUMNS)}"
                remedy = f"text must be UTF-8, and a frame a number from 0 to {FRAMES - 1}"
                raise UserError(message, remedy=remedy) from None
        return found

    @cached_property
    def _starts(self) -> list[int]:
        """First row of each row group."""
        metadata = self._file.metadata
        rows = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        return list(accumulate(rows, initial=0))[:-1]

    @cached_property
    def _file(self) -> pq.ParquetFile:
        with self._explained():
            return pq.ParquetFile(self._mapped, pre_buffer=False)

    @cached_property
    def _mapped(self) -> pa.MemoryMappedFile:
        with self._place.file.at_hand() as path:
            return pa.memory_map(str(path))

    @cached_property
    def _column(self) -> str:
        found: list[str] = [field.name for field in self._file.schema_arrow if _holds_images(field.type)]
        if IMAGE_COLUMN in found:
            return IMAGE_COLUMN
        if len(found) != 1:
            what = f"several columns hold bytes ({', '.join(found)})" if found else "no column holds bytes"
            raise UserError(f"{self._place.uri}: {what}", remedy=f"name the one with the images '{IMAGE_COLUMN}'")
        return str(found[0])

    @cached_property
    def _class_names(self) -> list[str] | None:
        """Names of the numbers in the column `label`, from the metadata that Hugging Face writes."""
        try:
            features = json.loads(self._file.schema_arrow.metadata[b"huggingface"])["info"]["features"]
            names = features["label"]["names"]
        except (TypeError, KeyError, ValueError):
            return None
        return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            message = f"{self._place.uri}: not a whole Parquet file ({reason})"
            raise UserError(message, remedy="write it anew, or exclude it") from None

    def __getstate__(self) -> dict[str, Any]:
        return {"_place": self._place, "_batches": iter(()), "_group": -1, "_first": 0, "_images": None}


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _holds_images(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _bytes_and_paths(column: pa.Array) -> tuple[pa.Array, list[str | None]]:
    if not pa.types.is_struct(column.type):
        return column, [None] * len(column)
    fields = dict(zip((field.name for field in column.type), column.flatten(), strict=True))
    paths = fields.get("path")
    return fields["bytes"], [None] * len(column) if paths is None else paths.to_pylist()


def _row_name(row: int, path: str | None) -> str:
    """The number first, so that names sort as rows do; of a path only what cannot lead anywhere."""
    base = path.replace("\\", "/").rpartition("/")[2].replace("\0", "") if isinstance(path, str) else ""
    return f"{row:09d}-{base}" if base else f"{row:09d}"


def _said(batch: pa.RecordBatch, class_names: list[str] | None) -> tuple[list[Any], list[Any], list[Any]]:
    """Label, group and frame of each row."""
    labels = [_label(value, class_names) for value in _values(batch, "label")]
    groups = [None if value is None else str(value) for value in _values(batch, "group")]
    frames = [value if isinstance(value, int) else None for value in _values(batch, "frame")]
    return labels, groups, frames


def _values(batch: pa.RecordBatch, column: str) -> list[Any]:
    index = batch.schema.get_field_index(column)
    return [None] * len(batch) if index < 0 else batch.column(index).to_pylist()


def _label(value: object, class_names: list[str] | None) -> str | None:
    """A number below 0 is how Hugging Face says that there is none."""
    if isinstance(value, str):
        return value
    if not isinstance(value, int) or value < 0:
        return None
    return class_names[value] if class_names is not None and value < len(class_names) else str(value)
