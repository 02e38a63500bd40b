"""Files that hold images, wherever they lie: here, or in a bucket."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from components.data.sources.digests import Stamp


class File(Protocol):
    """A file whose content is at hand when it is needed. Picklable; as text it is what messages call it."""

    @property
    def name(self) -> str:
        """The last part of its name."""

    def stamp(self) -> Stamp:
        """What tells that it is still the same; found out without fetching it.

        Raises:
            OSError: if it is not there.
        """

    def at_hand(self) -> AbstractContextManager[Path]:
        """Where the content is, for the length of the block; what is opened in it stays readable after it.

        Raises:
            UserError: if it cannot be fetched.
        """

    def doubt(self) -> None:
        """Told when the content was not what it should be: a copy that may be damaged is not used again."""


@dataclass(frozen=True)
class LocalFile:
    """A file of this machine.

    Args:
        path: absolute.
    """

    path: Path

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name

    def stamp(self) -> Stamp:
        """Size and times of last change."""
        return Stamp.of(str(self.path), self.path.stat())

    @contextmanager
    def at_hand(self) -> Iterator[Path]:
        """The path."""
        yield self.path

    def doubt(self) -> None:
        """It is the original."""

    def __str__(self) -> str:
        return str(self.path)
