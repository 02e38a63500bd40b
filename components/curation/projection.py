"""Vectors on a plane: the first two principal components."""

import numpy as np
from jaxtyping import Float

BLOCK = 65_536


def principal_plane(vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n 2"]:
    """Project centred vectors on the two directions in which they vary most.

    A direction has no sign of its own: the one in which the third moment is not negative is taken. Memory holds a block
    of vectors in double precision, and dim × dim.

    Args:
        vectors: at least one; of one dimension, the second coordinate is zero.
    """
    count, dim = vectors.shape
    mean = np.mean(vectors, axis=0, dtype=np.float64)
    covariance, blocks = np.zeros((dim, dim)), [slice(first, first + BLOCK) for first in range(0, count, BLOCK)]
    for rows in blocks:
        block = vectors[rows].astype(np.float64) - mean
        covariance += block.T @ block
    _, directions = np.linalg.eigh(covariance)
    axes = directions[:, ::-1][:, :2]
    plane = np.zeros((count, 2))
    for first in range(0, count, BLOCK):
        plane[first : first + BLOCK, : axes.shape[1]] = (
            vectors[first : first + BLOCK].astype(np.float64) - mean
        ) @ axes
    return plane * np.where((plane**3).sum(axis=0) < 0, -1.0, 1.0)
