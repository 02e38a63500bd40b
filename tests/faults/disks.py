"""File systems that are soon full."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount(folder: Path, *options: str) -> bool:
    """Mounts a file system in memory, or changes the options of one."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """A new folder that holds so much; the test is skipped where nothing can be mounted."""
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None or not mount(folder, f"size={size}"):
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
