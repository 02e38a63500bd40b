"""Which images a step sees: a pure function of (seed, step), whatever the number of processes or workers."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

_STREAM = 1  # keeps these draws apart from the augmentation's


class Visit(NamedTuple):
    """One image in one epoch."""

    epoch: int
    place: int
    """Place in the sorted list of ids."""


@lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, images: int) -> np.ndarray:
    """The order of an epoch.

    Args:
        seed: seed of the run.
        epoch: counted from 0.
        images: size of the data set.

    Returns:
        Int64[images], a permutation; read-only.
    """
    order = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, _STREAM, epoch]))).permutation(images)
    order.flags.writeable = False
    return order


def visits(seed: int, images: int, start: int, stop: int) -> list[Visit]:
    """Places `start` to `stop` of the endless stream of epochs.

    An epoch follows the other without a gap, so that no image is dropped at its end; the batch that spans two epochs
    may hold an image twice.

    Args:
        seed: seed of the run.
        images: size of the data set.
        start: first place, counted over all epochs.
        stop: the place after the last.
    """
    return [
        Visit(place // images, int(permutation(seed, place // images, images)[place % images]))
        for place in range(start, stop)
    ]
