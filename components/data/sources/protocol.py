"""What every source of images offers."""

from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

from components.data.lock import Annotation, SourceObject

CHANGED = "take a new snapshot with `selfsight snapshot`"
"""What to do where a source is no longer what its snapshot says."""


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
