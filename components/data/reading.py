"""What gives the bytes of images to whoever needs them."""

from collections.abc import Sequence
from typing import Protocol


class Reader(Protocol):
    """Anything that gives the bytes of an image; called from several threads."""

    def read(self, image_id: str) -> bytes:
        """The file's bytes."""
        ...

    def prefetch(self, image_ids: Sequence[str]) -> None:
        """Says which images are read soon; returns at once."""
        ...
