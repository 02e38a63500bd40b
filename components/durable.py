"""What survives a power cut: a file's bytes, and the names in a folder, once they are flushed to the disk."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Flushes a file that is written and closed, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
