"""Mean and standard deviation of features, in one pass over any number of rows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# Keeps the float64 copy of a block small, however wide a row is.
_PIECE_VALUES = 2**19


class Moments:
    """Running mean and variance of each feature, in float64.

    Blocks are merged by their means and sums of squared deviations, which loses no digits to
    cancellation (T. F. Chan, G. H. Golub, R. J. LeVeque, "Updating Formulae and a Pairwise
    Algorithm for Computing Sample Variances", 1979).

    Parameters
    ----------
    feature_shape : tuple of int
        The shape of a sample.
    """

    def __init__(self, feature_shape: tuple[int, ...]) -> None:
        self._num_rows = 0
        self._mean = np.zeros(feature_shape)
        self._squares = np.zeros(feature_shape)

    def add(self, block: NDArray[Any]) -> None:
        """Take in samples, (rows, *feature_shape)."""
        step = max(1, _PIECE_VALUES // max(1, self._mean.size))
        for start in range(0, len(block), step):
            self._add_piece(block[start : start + step].astype(np.float64))

    def _add_piece(self, piece: NDArray[np.float64]) -> None:
        mean = piece.mean(axis=0)
        squares = ((piece - mean) ** 2).sum(axis=0)
        total = self._num_rows + len(piece)
        shift = mean - self._mean
        self._squares += squares + shift**2 * (self._num_rows * len(piece) / total)
        self._mean += shift * (len(piece) / total)
        self._num_rows = total

    def standardization(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what makes every feature's mean 0 and its standard deviation 1.

        Returns
        -------
        scale, offset : ndarray of float64, feature_shape
            For `stored * scale + offset`. A constant feature is only shifted.
        """
        deviation = np.sqrt(self._squares / self._num_rows)
        scale = 1 / np.where(deviation == 0, 1.0, deviation)
        return scale, -self._mean * scale
