"""Outs appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.durable import sync
from components.errors import no_space_is_a_user_error

PARTIAL = ".partial-"


@contextmanager
def publish(path: Path) -> Iterator[Path]:
    """Lets the block write to a temporary sibling of `path`, and renames it when the block succeeds.

    Args:
        path: a file or folder to make. Whatever stood there is replaced.

    Yields:
        The sibling. It does not exist yet: write it as a file, or `mkdir` it.

    Raises:
        UserError: if there is no space left; what stood at `path` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{path.name}{PARTIAL}*"):
        _remove(leftover)
    partial = path.with_name(f".{path.name}{PARTIAL}{os.getpid()}")
    try:
        with no_space_is_a_user_error(f"writing {path}"):
            yield partial
            _sync(partial)
            _replace(partial, path)
    finally:
        _remove(partial)


def _replace(partial: Path, path: Path) -> None:
    if partial.is_dir() and path.exists():
        aside = path.with_name(f".{path.name}{PARTIAL}old-{os.getpid()}")
        path.rename(aside)
        partial.rename(path)
        _remove(aside)
    else:
        partial.replace(path)
    sync(path.parent)


def _sync(path: Path) -> None:
    if path.is_dir():
        for entry in path.rglob("*"):
            sync(entry)
    sync(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
