"""Large arrays that need not stay in memory."""

import math
import tempfile
from typing import Any

import numpy as np

IN_MEMORY = 256 << 20
"""Bytes up to which an array is kept in memory."""


def scratch(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of zeros; beyond 256 MiB it lies in a temporary file, whose pages the system may write out and drop.

    The file has no name and is gone with the array, however the process ends. `TMPDIR` says on which disk it is.
    """
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    if nbytes <= IN_MEMORY:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(prefix="selfsight-") as file:
        file.truncate(nbytes)
        return np.memmap(file, dtype, "r+", shape=shape).view(np.ndarray)
