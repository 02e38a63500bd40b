"""Perceptual hash: 64 bits that stay nearly the same when a picture is scaled or encoded again."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, UInt8, UInt64
from PIL import Image

SIDE = 32
BITS = 64
_SCALE = 4096.0


def phash(image: Image.Image) -> int:
    """Hashes a picture by the signs of its lowest frequencies; see `phashes`.

    Args:
        image: any decoded picture.

    Returns:
        64 bits, as a number below 2**64; 0 for a picture of one colour.
    """
    [found] = phashes([grey_square(image)])
    return found


def grey_square(image: Image.Image) -> bytes:
    """What of a picture is hashed: 32 × 32 grey values, 0 to 255, row by row."""
    grey = image if image.mode == "L" else image.convert("L")
    return grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0).tobytes()


def phashes(squares: Sequence[bytes]) -> list[int]:
    """Hashes pictures at once: one by one it takes five times as long.

    Of the discrete cosine transform of the grey values the 64 lowest frequencies but the mean are compared with their
    median (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.1, which
    takes a square block instead). The transform is exact in integers, so that every machine gets the same bits.

    Args:
        squares: of each picture, what `grey_square` gives.

    Returns:
        Of each, what `phash` gives.
    """
    pixels = np.frombuffer(b"".join(squares), dtype=np.uint8).reshape(-1, SIDE, SIDE).astype(np.float64)
    low = (_BASIS @ pixels @ _BASIS.T)[:, _ROWS, _COLUMNS]
    ordered = np.partition(low, (BITS // 2 - 1, BITS // 2), axis=1)
    twice_median = ordered[:, BITS // 2 - 1] + ordered[:, BITS // 2]
    bits = np.ascontiguousarray(np.packbits(2.0 * low > twice_median[:, None], axis=1))
    return bits.view(">u8").ravel().tolist()


def hamming(a: UInt64[np.ndarray, "..."], b: UInt64[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Number of bits in which hashes differ, 0 to 64; the arrays broadcast."""
    differing: UInt8[np.ndarray, ...] = np.bitwise_count(a ^ b)
    return differing


def hamming_matrix(a: UInt64[np.ndarray, " n"], b: UInt64[np.ndarray, " m"]) -> UInt8[np.ndarray, "n m"]:
    """Number of bits in which each of `a` differs from each of `b`; n · m bytes."""
    return hamming(a[:, None], b[None, :])


def _lowest_frequencies() -> tuple[Int[np.ndarray, "64"], Int[np.ndarray, "64"]]:
    """Vertical and horizontal frequencies of the 64 lowest but the mean, by distance from it."""
    rows, columns = np.mgrid[:SIDE, :SIDE].reshape(2, -1)
    order = np.lexsort((columns, rows, rows**2 + columns**2))[1 : BITS + 1]
    return rows[order], columns[order]


def _basis(frequencies: int) -> Float[np.ndarray, "frequencies 32"]:
    """DCT-II in whole numbers: products with 8-bit pixels stay below 2**53, where float64 is exact in any order."""
    frequency, place = np.mgrid[:frequencies, :SIDE]
    basis: Float[np.ndarray, "frequencies 32"] = np.cos(np.pi * (2 * place + 1) * frequency / (2 * SIDE))
    return np.rint(_SCALE * basis)


_ROWS, _COLUMNS = _lowest_frequencies()
_BASIS = _basis(int(max(_ROWS.max(), _COLUMNS.max())) + 1)
