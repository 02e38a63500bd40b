"""What every source of images offers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from components.data.lock import SourceObject


@dataclass(frozen=True)
class Annotation:
    """What a source knows about an object without looking at its pixels. Never used in training."""

    label: str | None = None
    """Class, for evaluation."""
    group: str | None = None
    """Video or instance: images of one group never fall on both sides of a held-out split."""
    frame: int | None = None
    """Position within the group."""


class Source(Protocol):
    """A place where images are; one of its roles. Picklable, so that worker processes can read from it."""

    @property
    def uri(self) -> str:
        """What opens this source again."""

    def list(self) -> Iterator[SourceObject]:
        """Yields every object, sorted by name.

        Raises:
            UserError: if the source is absent, unreachable, empty, or holds no image.
        """

    def read(self, name: str, digest: str | None = None) -> bytes:
        """Returns the bytes of an object.

        Args:
            name: as listed.
            digest: as locked; None reads whatever is there now.

        Raises:
            UserError: if the object is gone or is no longer what the digest says.
        """

    def annotation(self, name: str) -> Annotation:
        """Returns what is known about an object."""

    def truth(self) -> pa.Table | None:
        """Returns the ground truth, one row a name (column `name`), of a source that has it."""
