"""Safetensors files written tensor by tensor: hashed on their way to the disk, never copied as a whole."""

import hashlib
import itertools
import json
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

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
