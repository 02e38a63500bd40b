"""Embedding in parts: each is kept when it is done, so that a killed run goes on, and a grown set repeats little.

A part is a run of images of one shard, in the order in which they lie there. Shards are only appended to: with a new
snapshot, the parts of the old shards are those of before.
"""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from PIL import __version__ as pillow_version

from components.tracking import progress
from components.tracking.locking import file_lock, shared_lock

PART = 512
"""Images of a part at most, but for a batch that is larger; their vectors take about 1 MiB."""
_CODE = Path(__file__).parents[1]
_CODE_OF_VECTORS = ("features", "models", "data/decoding.py", "curation/embedding.py", "curation/parts.py")

Vectors = Float[np.ndarray, "images dim"]
Describe = Callable[[Sequence[str]], Vectors]


class Part(NamedTuple):
    """A part of the images."""

    key: str
    """Names the vectors: hash of the images, of what describes them, and of the code."""
    rows: Int[np.ndarray, " images"]
    """Where the vectors belong among those of all images."""
    ids: tuple[str, ...]


def plan_parts(ids: Sequence[str], locations: pa.Table | None, describer: str, batch_size: int = 1) -> list[Part]:
    """Cut images into parts.

    Args:
        ids: images in the order of the vectors.
        locations: `id`, `shard`, `offset`; None: the images lie in the order of the ids.
        describer: names everything but the code that a vector depends on.
        batch_size: images that are described together; a part holds as many at least.
    """
    size = max(PART, batch_size)
    shards, offsets = _places(ids, locations)
    order = np.lexsort((offsets, shards))
    bounds = np.flatnonzero(np.diff(shards[order])) + 1
    pieces = (shard[first : first + size] for shard in np.split(order, bounds) for first in range(0, len(shard), size))
    return [_part(rows, tuple(ids[row] for row in rows), describer) for rows in pieces]


def _places(ids: Sequence[str], locations: pa.Table | None) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Number of the shard of each image, and its offset there."""
    if locations is None:
        return np.zeros(len(ids), np.int64), np.arange(len(ids))
    names = locations["shard"].to_pylist()
    number = {name: place for place, name in enumerate(sorted(set(names)))}
    found = dict(
        zip(locations["id"].to_pylist(), zip(names, locations["offset"].to_pylist(), strict=True), strict=True)
    )
    places = [found[one] for one in ids]
    shards, offsets = [number[name] for name, _ in places], [offset for _, offset in places]
    return np.array(shards, np.int64), np.array(offsets, np.int64)


def _part(rows: Int[np.ndarray, " images"], ids: tuple[str, ...], describer: str) -> Part:
    text = "\n".join((describer, code_digest(), *ids))
    return Part(hashlib.sha256(text.encode()).hexdigest(), rows, ids)


@cache
def code_digest() -> str:
    """Hash of the code that vectors depend on and of the libraries that do the arithmetic."""
    digest = hashlib.sha256(f"{torch.__version__} {np.__version__} {pillow_version}".encode())
    for path in (_CODE / one for one in _CODE_OF_VECTORS):
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()


class PartStore:
    """Vectors of finished parts, one file each; several processes may use one folder, such as those of two work trees.

    Args:
        folder: where they are kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = folder.with_name(f"{folder.name}.lock")
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Nothing is deleted by others during the block."""
        with shared_lock(self._lock):
            yield

    def load(self, part: Part) -> Vectors | None:
        """The vectors of a part; None if they are not there whole."""
        try:
            vectors = np.load(self._path(part.key))
        except (FileNotFoundError, ValueError, EOFError):
            return None
        fits = vectors.dtype == np.float32 and vectors.ndim == 2 and len(vectors) == len(part.ids)
        return vectors if fits else None

    def save(self, part: Part, vectors: Vectors) -> None:
        """Keeps the vectors of a part: the file is there whole or not at all."""
        path = self._path(part.key)
        partial = path.with_suffix(f".partial-{os.getpid()}")
        try:
            with partial.open("wb") as file:
                np.save(file, vectors)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def keep_only(self, parts: Sequence[Part]) -> None:
        """Deletes everything but these parts, unless the folder is in use: others want other parts."""
        wanted = {self._path(part.key) for part in parts}
        with file_lock(self._lock, blocking=False) as alone:
            for path in self.folder.iterdir() if alone else ():
                if path not in wanted:
                    path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npy"


def describe_here(
    describe: Describe, parts: Sequence[Part], done: Callable[[Part, Vectors], None], *, threads: int
) -> None:
    """Describes parts in this process, several at a time, each on one thread.

    A part is the work of one thread, so that neither the number of cores nor that of parts at a time changes a bit.

    Args:
        describe: gives the vectors of images by id; called from several threads.
        parts: what to do.
        done: told of each part as it is finished, in any order, from this thread.
        threads: parts at a time.
    """
    whole = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "embed", initializer=torch.set_num_threads, initargs=(1,))
    try:
        running = {pool.submit(describe, part.ids): part for part in parts}
        for future in progress(as_completed(running), total=len(parts), description="embed", unit="part"):
            done(running.pop(future), future.result())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(whole)  # what starts later would have one thread as well
