"""Progress of long work: a bar on a terminal, a log line a minute elsewhere."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

_log = logging.getLogger(__name__)
T = TypeVar("T")
LOG_SECONDS = 60.0


def progress(items: Iterable[T], *, total: int, description: str | None, unit: str = "image") -> Iterator[T]:
    """Passes `items` through and shows how far it is, with rate and time to go.

    Args:
        items: what is worked on.
        total: how many there will be.
        description: what is being done; None shows nothing.
        unit: what one item is, in the singular.
    """
    if description is None:
        yield from items
        return
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=description, unit=unit, leave=False)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items):
        yield item
        now = time.monotonic()
        if now - last >= LOG_SECONDS:
            last = now
            rate = (done + 1) / (now - start)
            left = (total - done - 1) / rate
            _log.info("%s: %d of %d, %.1f %ss/s, %.0f s to go", description, done + 1, total, rate, unit, left)
