"""Euclidean norms, the same on every rank: without BLAS, whose kernels may differ between ranks.

Sums of squares are in float64, which doesn't overflow.
"""

import math
from collections.abc import Iterable

import numpy as np

from lockstep.arrays import Array
from lockstep.optim.slices import blocks

# Elements whose squares are there at one time. It decides the last bits of a norm.
NORM_BLOCK_SIZE = 32_768


def norm(vector: Array) -> float:
    """Return the norm of a flat vector."""
    return norm_of_parts(vector[part] for part in norm_blocks(slice(0, vector.size)))


def norm_blocks(where: slice) -> Iterable[slice]:
    """Return the parts of a slice that a norm is made of."""
    return blocks(where, NORM_BLOCK_SIZE)


def norm_of_parts(parts: Iterable[Array]) -> float:
    """Return the norm of a vector that comes in parts: see `norm_blocks`."""
    total = 0.0
    for part in parts:
        total += float(np.add.reduce(np.square(part, dtype=np.float64)))
    return math.sqrt(total)


def limit_column_norms(matrix: Array, limit: float) -> None:
    """Scale down, in place, each column of a matrix whose norm is beyond the limit.

    Parameters
    ----------
    matrix : ndarray (fan_in, fan_out)
        A layer's weights without its bias: a column has those into one unit.
    limit : float
        Largest norm of a column. Columns within it keep their bits.

    References
    ----------
    N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever, R. Salakhutdinov, "Dropout: A Simple Way
    to Prevent Neural Networks from Overfitting", JMLR 15 (2014), section 5.1.
    """
    fan_in, fan_out = matrix.shape
    squares = np.zeros(fan_out)
    for rows in blocks(slice(0, fan_in), max(1, NORM_BLOCK_SIZE // fan_out)):
        squares += np.add.reduce(np.square(matrix[rows], dtype=np.float64), axis=0)
    factors = limit / np.maximum(np.sqrt(squares), limit)
    np.multiply(matrix, factors.astype(matrix.dtype), out=matrix)
