"""Large arrays that need not stay in memory."""

import errno
import math
import os
import tempfile
from typing import Any

import numpy as np

from components.errors import UserError

IN_MEMORY = 256 << 20
"""Bytes up to which an array is kept in memory."""


def scratch(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of zeros; beyond 256 MiB it lies in a temporary file, whose pages the system may write out and drop.

    The file has no name and is gone with the array, however the process ends. `TMPDIR` says on which disk it is. Its
    space is taken at once: without, the first page that a full disk has no room for would kill the process.

    Raises:
        UserError: if the disk has no room for it.
    """
    nbytes = math.prod(shape) * np.dtype(dtype).itemsize
    if nbytes <= IN_MEMORY:
        return np.zeros(shape, dtype)
    with tempfile.TemporaryFile(prefix="selfsight-") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, nbytes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise UserError(
                f"no space left in {tempfile.gettempdir()} for {nbytes:,} bytes of a temporary file",
                remedy="free some space there, or set TMPDIR to a folder on another disk",
            ) from error
        return np.memmap(file, dtype, "r+", shape=shape).view(np.ndarray)
