"""Images in plain tars (WebDataset convention: `<id>.<extension>`), read at random through an index."""

import mmap
import tarfile
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import pyarrow as pa

from components.errors import UserError

SHARD_LIMIT = 1 << 30
"""Bytes: no shard is larger, so that one can be moved, cached and hashed at a time."""
_END = bytes(2 * tarfile.BLOCKSIZE)
_ID_TYPE = "S64"

LOCATIONS = pa.schema([("id", pa.string()), ("shard", pa.string()), ("offset", pa.int64()), ("nbytes", pa.int64())])
"""Columns of the index; `offset` is where the bytes of the image start in the shard."""


class ShardWriter:
    """Appends images to `shard-000000.tar`, `shard-000001.tar`, … in the order in which they come.

    The bytes of a shard depend on nothing but the images in it, and a shard once full is not touched again.

    Args:
        folder: an existing folder.
        max_bytes: size at which the next shard begins, bytes.
    """

    def __init__(self, folder: Path, max_bytes: int = SHARD_LIMIT) -> None:
        self.folder = folder
        self.max_bytes = min(max_bytes, SHARD_LIMIT)
        self.shards = 0
        self.nbytes = 0
        self._file: BinaryIO | None = None
        self._position = 0
        self._rows: dict[str, list[Any]] = {name: [] for name in LOCATIONS.names}

    def write(self, image_id: str, extension: str, data: bytes) -> None:
        """Appends one image.

        Args:
            image_id: SHA-256 of the bytes, hexadecimal.
            extension: of the member's name, without the dot.
            data: the bytes.

        Raises:
            ValueError: if the image alone is larger than a shard may be.
        """
        header = tarfile.TarInfo(f"{image_id}.{extension}")
        header.size = len(data)
        padding = -len(data) % tarfile.BLOCKSIZE
        needed = tarfile.BLOCKSIZE + len(data) + padding
        if needed + len(_END) > self.max_bytes:
            raise ValueError(f"image {image_id} of {len(data)} bytes does not fit a shard of {self.max_bytes}")
        if self._file is None or self._position + needed + len(_END) > self.max_bytes:
            self._next()
        assert self._file is not None
        self._file.write(header.tobuf(tarfile.USTAR_FORMAT))
        self._file.write(data)
        self._file.write(bytes(padding))
        row = (image_id, f"shard-{self.shards - 1:06d}.tar", self._position + tarfile.BLOCKSIZE, len(data))
        for column, value in zip(self._rows.values(), row, strict=True):
            column.append(value)
        self._position += needed
        self.nbytes += len(data)

    def locations(self) -> pa.Table:
        """The index of everything written, sorted by id: id, shard, offset, nbytes."""
        return pa.table(self._rows, schema=LOCATIONS).sort_by("id")

    def close(self) -> None:
        """Ends the last shard."""
        if self._file is not None:
            self._file.write(_END)
            self._file.close()
            self._file = None

    def _next(self) -> None:
        self.close()
        self._file = (self.folder / f"shard-{self.shards:06d}.tar").open("xb")
        self._position = 0
        self.shards += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        elif self._file is not None:
            self._file.close()


class ShardReader:
    """Reads images by id from memory-mapped shards.

    It may be used after a fork and be pickled; each process maps the shards it reads from.

    Args:
        folder: the folder of shards.
        locations: id, shard, offset, nbytes, as in the manifest.
    """

    def __init__(self, folder: Path, locations: pa.Table) -> None:
        self.folder = folder
        ids = np.array(locations["id"].to_pylist(), dtype=_ID_TYPE)
        order = np.argsort(ids, kind="stable")
        shards = locations["shard"].combine_chunks().dictionary_encode()
        self._names: list[str] = shards.dictionary.to_pylist()
        self._ids = ids[order]
        self._shard = shards.indices.to_numpy()[order]
        self._offset = locations["offset"].to_numpy()[order]
        self._nbytes = locations["nbytes"].to_numpy()[order]
        self._maps: dict[int, mmap.mmap] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and self._row(image_id) is not None

    def read(self, image_id: str) -> bytes:
        """Returns the bytes of an image.

        Raises:
            KeyError: if no shard holds it.
            UserError: if its shard is missing or cut short.
        """
        row = self._row(image_id)
        if row is None:
            raise KeyError(image_id)
        shard, start, nbytes = int(self._shard[row]), int(self._offset[row]), int(self._nbytes[row])
        data = self._map(shard)[start : start + nbytes]
        if len(data) != nbytes:
            raise UserError(f"{self.folder / self._names[shard]}: shorter than the manifest says", remedy=_REMEDY)
        return data

    def nbytes(self, image_id: str) -> int:
        """Size of an image in bytes, without reading it.

        Raises:
            KeyError: if no shard holds it.
        """
        row = self._row(image_id)
        if row is None:
            raise KeyError(image_id)
        return int(self._nbytes[row])

    def close(self) -> None:
        """Unmaps the shards; reading again maps them again."""
        for mapped in self._maps.values():
            mapped.close()
        self._maps = {}

    def _row(self, image_id: str) -> int | None:
        key = np.bytes_(image_id.encode())
        row = int(np.searchsorted(self._ids, key))
        return row if row < len(self._ids) and self._ids[row] == key else None

    def _map(self, shard: int) -> mmap.mmap:
        if shard not in self._maps:
            path = self.folder / self._names[shard]
            try:
                with path.open("rb") as file:
                    self._maps[shard] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except FileNotFoundError:
                raise UserError(f"{path}: no such shard", remedy=_REMEDY) from None
            except ValueError:
                raise UserError(f"{path}: empty", remedy=_REMEDY) from None
        return self._maps[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": {}}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_REMEDY = "restore it with `dvc checkout data/shards`, or run `dvc repro ingest`"
