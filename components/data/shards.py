"""Images in plain tars (WebDataset convention: `<id>.<extension>`), read at random through an index."""

import errno
import hashlib
import mmap
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa

from components.errors import UserError

SHARD_LIMIT = 1 << 30
"""Bytes: no shard is larger, so that one can be moved, cached and hashed at a time."""
OPEN_SHARDS = 256
"""Shards that a reader keeps mapped, each with a file descriptor: processes often may have 1024."""
_ID_TYPE = "S64"

LOCATIONS = pa.schema([("id", pa.string()), ("shard", pa.string()), ("offset", pa.int64()), ("nbytes", pa.int64())])
"""Columns of the index; `offset` is where the bytes of the image start in the shard."""


class Extent(NamedTuple):
    """Where the bytes of an image are."""

    shard: str
    offset: int
    nbytes: int


class ShardIndex:
    """Extents by id, in some twenty bytes an image beside the id.

    Args:
        locations: id, shard, offset, nbytes, as in the manifest.
    """

    def __init__(self, locations: pa.Table) -> None:
        ids = np.array(locations["id"].to_pylist(), dtype=_ID_TYPE)
        order = np.argsort(ids, kind="stable")
        shards = locations["shard"].combine_chunks().dictionary_encode()
        self._names: list[str] = shards.dictionary.to_pylist()
        self._ids = ids[order]
        self._shard = shards.indices.to_numpy()[order]
        self._offset = locations["offset"].to_numpy()[order]
        self._nbytes = locations["nbytes"].to_numpy()[order]

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, image_id: str) -> bool:
        return self._row(image_id) is not None

    def place(self, image_id: str) -> Extent:
        """Where an image is.

        Raises:
            KeyError: if no shard holds it.
        """
        row = self._row(image_id)
        if row is None:
            raise KeyError(image_id)
        return Extent(self._names[self._shard[row]], int(self._offset[row]), int(self._nbytes[row]))

    def _row(self, image_id: str) -> int | None:
        key = np.bytes_(image_id.encode())
        row = int(np.searchsorted(self._ids, key))
        return row if row < len(self._ids) and self._ids[row] == key else None


class ShardReader:
    """Reads images by id from memory-mapped shards.

    It may be used after a fork and be pickled; each process maps the shards it reads from.

    Args:
        folder: the folder of shards.
        locations: id, shard, offset, nbytes, as in the manifest.
        verify: compare the SHA-256 of whatever is read with its id.
    """

    def __init__(self, folder: Path, locations: pa.Table, *, verify: bool = False) -> None:
        self.folder = folder
        self._verify = verify
        self._index = ShardIndex(locations)
        self._maps: OrderedDict[str, mmap.mmap] = OrderedDict()

    def __len__(self) -> int:
        return len(self._index)

    def __contains__(self, image_id: object) -> bool:
        return isinstance(image_id, str) and image_id in self._index

    def read(self, image_id: str) -> bytes:
        """Returns the bytes of an image.

        Raises:
            KeyError: if no shard holds it.
            UserError: if its shard is missing, cannot be opened or is cut short, or its bytes are others than those of
                the id.
        """
        shard, start, nbytes = self._index.place(image_id)
        data = self._map(shard)[start : start + nbytes]
        if len(data) != nbytes:
            raise UserError(f"{self.folder / shard}: shorter than the manifest says", remedy=_REMEDY)
        if self._verify and hashlib.sha256(data).hexdigest() != image_id:
            raise UserError(f"{self.folder / shard}: image {image_id} is damaged", remedy=_REMEDY)
        return data

    def prefetch(self, image_ids: Sequence[str]) -> None:
        """Tells the system which images are read soon; returns at once.

        Raises:
            KeyError: if no shard holds one of them.
            UserError: if a shard is missing or cannot be opened.
        """
        for image_id in image_ids:
            shard, start, nbytes = self._index.place(image_id)
            page = start - start % mmap.PAGESIZE
            mapped = self._map(shard)
            if page < len(mapped):
                mapped.madvise(mmap.MADV_WILLNEED, page, min(start + nbytes, len(mapped)) - page)

    def nbytes(self, image_id: str) -> int:
        """Size of an image in bytes, without reading it.

        Raises:
            KeyError: if no shard holds it.
        """
        return self._index.place(image_id).nbytes

    def close(self) -> None:
        """Unmaps the shards; reading again maps them again."""
        for mapped in self._maps.values():
            mapped.close()
        self._maps.clear()

    def _map(self, shard: str) -> mmap.mmap:
        mapped = self._maps.get(shard)
        if mapped is None:
            mapped = self._maps[shard] = _mapped(self.folder / shard)
        with suppress(KeyError):  # another thread has just let go of it; a map is closed when nobody reads from it
            self._maps.move_to_end(shard)
            while len(self._maps) > OPEN_SHARDS:
                self._maps.popitem(last=False)
        return mapped

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": OrderedDict()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise UserError(f"{path}: no such shard", remedy=_REMEDY) from None
    except ValueError:
        raise UserError(f"{path}: empty", remedy=_REMEDY) from None
    except OSError as error:
        few = error.errno in (errno.EMFILE, errno.ENFILE)
        remedy = "allow more open files, such as `ulimit -n 4096`" if few else _REMEDY
        raise UserError(f"{path}: {error.strerror}", remedy=remedy) from None


_REMEDY = "restore it with `dvc checkout data/shards`, or run `dvc repro ingest`"
