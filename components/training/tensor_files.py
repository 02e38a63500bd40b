"""Safetensors files as checkpoints need them: hashed on their way to the disk, read into tensors that exist already.

Neither way copies a file, or maps it, as a whole.
"""

import errno
import hashlib
import itertools
import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FLUSHED_BYTES = 1 << 27
"""After so many the disk begins to work; the kernel would wait for seconds, or for the flush at the end."""
_ALIGNMENT = 8
_DTYPES = {torch.float32: "F32", torch.uint8: "U8"}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str]) -> str:
    """Writes and flushes to the disk. Hashing, writing and flushing go on beside each other.

    Args:
        path: of the file.
        tensors: fp32 or uint8, on any device; one at a time is copied to the CPU.
        metadata: of the header.

    Returns:
        SHA-256 of the file, hexadecimal.

    Raises:
        OSError: if it cannot be written.
    """
    ordered = dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))  # keeps elements aligned
    digest = hashlib.sha256()
    flushing: Future[None] | None = None
    unflushed = 0
    with path.open("wb") as file, ThreadPoolExecutor(2) as beside:
        for content in itertools.chain([_header(ordered, metadata)], map(_bytes_of, ordered.values())):
            hashed = beside.submit(digest.update, content)
            file.write(content)
            hashed.result()
            unflushed += len(content)
            if unflushed >= FLUSHED_BYTES and (flushing is None or flushing.done()):
                if flushing is not None:
                    flushing.result()  # an error of the disk is told once
                flushing, unflushed = beside.submit(os.fdatasync, file.fileno()), 0
        if flushing is not None:
            flushing.result()
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> memoryview:
    entries: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for name, tensor in tensors.items():
        stop = start + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return memoryview(len(text).to_bytes(8, "little") + text)


def _bytes_of(tensor: Tensor) -> memoryview:
    """The elements of a tensor, not copied if it is contiguous and on the CPU."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


class TensorFile:
    """A file that `write_tensors` has written and that was verified; several threads may read it.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        length = int.from_bytes(self._file.read(8), "little")
        header: dict[str, Any] = json.loads(self._file.read(length))
        self.metadata: dict[str, str] = header.pop("__metadata__", {})
        """As given to `write_tensors`."""
        self._entries = header
        self._data = 8 + length

    def numel(self, name: str) -> int:
        """Elements of a tensor."""
        return math.prod(self._entries[name]["shape"])

    def read(self, name: str, start: int, target: Tensor) -> None:
        """Fills a tensor of any device with as many elements, from `start` on in the flattened stored one.

        Args:
            name: of the stored tensor.
            start: first element.
            target: of the stored dtype.

        Raises:
            OSError: if the file ends too early or cannot be read.
            ValueError: if the dtypes differ.
        """
        entry = self._entries[name]
        if _DTYPES.get(target.dtype) != entry["dtype"]:
            raise ValueError(f"{name} is stored as {entry['dtype']}, not as {target.dtype}")
        direct = target.device.type == "cpu" and target.is_contiguous()
        landing = target if direct else torch.empty(target.shape, dtype=target.dtype)
        content = _bytes_of(landing)
        offset = self._data + entry["data_offsets"][0] + start * target.element_size()
        while content:
            count = os.preadv(self._file.fileno(), [content], offset)
            if count == 0:
                raise OSError(errno.EIO, "the file ends too early", self._file.name)
            content, offset = content[count:], offset + count
        if not direct:
            target.copy_(landing)

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()
