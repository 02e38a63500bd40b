"""Seeded draws that stay the same for ever.

NumPy promises a fixed stream of bits for Philox but not for the methods of `Generator`; only `random()`
(the top 53 bits of each word) is used here, and everything else is made from it.
"""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Int
from numpy.random import Generator
from numpy.typing import NDArray

from components.data.scenes.spec import VERSION

T = TypeVar("T")

PURPOSES = ("plan", "scene", "instance", "background", "noise", "plant", "pose", "clip")


def stream(seed: int, purpose: str, number: int, part: int = 0) -> Generator:
    """Return the generator of one purpose and one number, independent of all others.

    Args:
        seed: seed of the set, below 2**31.
        purpose: one of `PURPOSES`.
        number: index of the thing drawn, below 2**40.
        part: distinguishes things of one index, below 2**16.
    """
    high = (VERSION << 48) | (PURPOSES.index(purpose) << 40) | seed
    return np.random.Generator(np.random.Philox(key=(high << 64) | (part << 40) | number))


def uniform(rng: Generator, low: float, high: float) -> float:
    """Draw from [low, high)."""
    return low + (high - low) * float(rng.random())


def below(rng: Generator, n: int) -> int:
    """Draw an integer from 0 … n - 1."""
    return int(rng.random() * n)


def pick(rng: Generator, options: Sequence[T]) -> T:
    """Draw one of the options."""
    return options[below(rng, len(options))]


def sign(rng: Generator) -> float:
    """Draw -1 or 1."""
    return 1.0 if rng.random() < 0.5 else -1.0


def permutation(rng: Generator, n: int) -> Int[NDArray[np.int64], " n"]:
    """Draw an order of 0 … n - 1."""
    return np.argsort(rng.random(n), kind="stable")


def colour(rng: Generator, luminance: float, chroma: float) -> Float[NDArray[np.float64], " 3"]:
    """Draw a colour of a given luminance (0 … 1, Rec. 601 weights) and of any hue.

    Args:
        rng: generator.
        luminance: luminance before clipping to the cube.
        chroma: length of the colour's deviation from grey.
    """
    weights = np.array([0.299, 0.587, 0.114])
    deviation = rng.random(3) - 0.5
    deviation = deviation - float(deviation @ weights)
    length = max(float(np.sqrt(deviation @ deviation)), 1e-6)
    return np.clip(luminance + deviation * (chroma / length), 0.0, 1.0)
