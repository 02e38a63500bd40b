"""The lock that names who describes the images."""

from dataclasses import dataclass
from pathlib import Path

from components.data.lock import read_resolved, write_resolved

BUILTIN = "builtin"
"""The descriptor of pictures that needs no training."""


@dataclass(frozen=True)
class EmbedderLock:
    """The embedder that a snapshot resolved to."""

    uri: str
    """`builtin`, or where the backbone is."""
    version: str
    """Version of the descriptor, or of the registered model."""
    digest: str
    """Artifact hash of a backbone; empty for the built-in descriptor."""


def write_embedder_lock(lock: EmbedderLock, path: Path) -> None:
    """Writes the lock, replacing the file whole."""
    write_resolved(lock, path)


def read_embedder_lock(path: Path) -> EmbedderLock:
    """Reads the lock.

    Raises:
        UserError: if it is absent or damaged.
    """
    return read_resolved(EmbedderLock, path)
