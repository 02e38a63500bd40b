"""Files of images in a folder that never grows beyond a bound."""

import hashlib
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

_log = logging.getLogger(__name__)
PARTIAL = ".partial"
LEFTOVER_SECONDS = 3600
"""Age at which an unfinished file is nobody's any more."""


class BoundedFiles:
    """Bytes by their SHA-256, the least recently used of which make room for new ones.

    Several threads may use it; several processes may share the folder, each within its own share of the bound.

    Args:
        folder: made if absent. What is in it already counts, and is used.
        max_bytes: size of all files together at most.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._left = max_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        for _, nbytes, path in sorted(_found(folder)):
            self._sizes[path.name] = nbytes
            self._left -= nbytes
        self._make_room(0)

    def get(self, image_id: str) -> bytes | None:
        """The bytes of an image; None if they are not here, or damaged."""
        with self._lock:
            if image_id not in self._sizes:
                return None
            self._sizes.move_to_end(image_id)
        try:
            data = self._path(image_id).read_bytes()
        except FileNotFoundError:  # dropped by another process
            data = b""
        if hashlib.sha256(data).hexdigest() == image_id:
            return data
        with self._lock:
            self._drop(image_id)
        return None

    def put(self, image_id: str, data: bytes) -> None:
        """Keeps the bytes of an image, if they fit at all."""
        path = self._path(image_id)
        partial = path.with_name(f"{image_id}-{os.getpid()}-{threading.get_ident()}{PARTIAL}")
        try:
            path.parent.mkdir(exist_ok=True)
            partial.write_bytes(data)
            with self._lock:
                if image_id not in self._sizes and self._make_room(len(data)):
                    partial.replace(path)
                    self._sizes[image_id] = len(data)
                    self._left -= len(data)
        except OSError as error:  # a full disk, for example: training goes on without
            _log.warning("%s: not kept (%s)", path, error.strerror)
        finally:
            partial.unlink(missing_ok=True)

    def _make_room(self, nbytes: int) -> bool:
        while self._left < nbytes and self._sizes:
            self._drop(next(iter(self._sizes)))
        return self._left >= nbytes

    def _drop(self, image_id: str) -> None:
        self._left += self._sizes.pop(image_id, 0)
        self._path(image_id).unlink(missing_ok=True)

    def _path(self, image_id: str) -> Path:
        return self._folder / image_id[:2] / image_id


def _found(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Time of last change, size and path of the files; leftovers of processes that were killed are removed."""
    for path in folder.glob("??/*"):
        try:
            stat = path.stat()
        except FileNotFoundError:  # dropped by another process
            continue
        if path.suffix != PARTIAL:
            yield stat.st_mtime, stat.st_size, path
        elif time.time() - stat.st_mtime > LEFTOVER_SECONDS:
            path.unlink(missing_ok=True)
