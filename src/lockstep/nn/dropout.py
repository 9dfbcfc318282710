"""Dropout: the masks of each step, drawn from the streams of the virtual ranks."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from lockstep.arrays import Array
from lockstep.streams import Purpose, philox

# A unit is kept if 16 random bits are below its layer's threshold.
_RANGE = 2**16
_DRAWS_PER_WORD = 4


class Dropout:
    """The masks of the layers' inputs, which multiply them.

    A mask holds 0 where a unit is dropped. All others are one over the probability of being kept,
    so that nothing is to be done in evaluation.

    Parameters
    ----------
    rates : sequence of float
        Of the features, and of each hidden layer: the probability of being dropped, to 16 bits.
    widths : sequence of int
        Of the same layers.
    virtual_ranks : range
        Those that this process runs.
    num_samples : int
        Rows per virtual rank.
    seed : int
        The run's.
    dtype : dtype
        float32 or float64.

    Attributes
    ----------
    masks : list of ndarray (num_virtual_ranks, num_samples, width + 1) or None
        Of each layer, after `draw`. The last column, which stands for the bias, is always kept.
        None where nothing is dropped.

    References
    ----------
    N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever, R. Salakhutdinov, "Dropout: A Simple Way
    to Prevent Neural Networks from Overfitting", JMLR 15 (2014), section 4; with the scaling in
    training instead of evaluation, section 10.
    """

    def __init__(
        self,
        rates: Sequence[float],
        widths: Sequence[int],
        virtual_ranks: range,
        num_samples: int,
        seed: int,
        dtype: DTypeLike,
    ) -> None:
        self._seed = seed
        self._virtual_ranks = virtual_ranks
        self._num_samples = num_samples
        # At least one of 2**16, so that there is something to divide by.
        self._thresholds = [max(1, round((1.0 - rate) * _RANGE)) for rate in rates]
        self.masks: list[Array | None] = [
            np.ones((len(virtual_ranks), num_samples, width + 1), dtype) if rate else None
            for rate, width in zip(rates, widths, strict=True)
        ]

    @property
    def is_used(self) -> bool:
        """Whether anything is dropped at all."""
        return any(mask is not None for mask in self.masks)

    def draw(self, step: int) -> None:
        """Draw the masks of a step: a pure function of seed, step and virtual rank.

        Parameters
        ----------
        step : int
            Which part of the training; never the same one twice.
        """
        for index, virtual_rank in enumerate(self._virtual_ranks):
            bits = philox(self._seed, Purpose.DROPOUT, step, virtual_rank)
            for mask, threshold in zip(self.masks, self._thresholds, strict=True):
                if mask is not None:
                    self._fill(mask[index, :, :-1], bits, threshold)

    def _fill(self, mask: Array, bits: np.random.Philox, threshold: int) -> None:
        words = bits.random_raw(-(-mask.size // _DRAWS_PER_WORD))
        draws = words.astype("<u8", copy=False).view("<u2")[: mask.size].reshape(mask.shape)
        np.less(draws, threshold, out=mask)
        np.multiply(mask, _RANGE / threshold, out=mask)
