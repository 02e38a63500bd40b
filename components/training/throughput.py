"""How fast training is."""

import time
from typing import Protocol


class Waiting(Protocol):
    """What is waited for."""

    waited_s: float
    """Seconds spent waiting for batches."""


class Throughput:
    """Speed since this was made.

    Args:
        loader: gives the batches.
    """

    def __init__(self, loader: Waiting) -> None:
        self.images = 0
        """Images trained on since then, over all processes."""
        self._loader = loader
        self._waited = loader.waited_s
        self._began = time.monotonic()

    def rates(self) -> dict[str, float]:
        """Images a second over all processes, and the share of the time that waited for data."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        return {
            "images_per_second": self.images / seconds,
            "data_wait_share": (self._loader.waited_s - self._waited) / seconds,
        }
