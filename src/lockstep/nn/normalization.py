"""Normalization of a hidden layer's pre-activations, with a gain and a bias for each unit.

Arrays are (virtual ranks, samples, units). Sums over samples and over units are matrix products,
one for each virtual rank, so their bits don't depend on how many virtual ranks run side by side.
"""

from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lockstep.arrays import Array

# Added to every variance.
EPSILON = 1e-5


class Normalization(Protocol):
    """Normalizes one layer in training; each `backward` belongs to the `forward` before it."""

    def forward(self, z: Array, gain: Array, bias: Array, scratch: Array) -> None:
        """Replace `z` by gain * (z - mean) / sqrt(variance + EPSILON) + bias.

        Parameters
        ----------
        z, scratch : ndarray (num_virtual_ranks, num_samples, num_units)
            Both are overwritten.
        gain, bias : ndarray (num_units,)
            Learned.
        """

    def backward(self, delta: Array, gain: Array, gradient: Array, scratch: Array) -> None:
        """Turn the loss's derivative by the output of `forward` into that by its input, in place.

        Parameters
        ----------
        delta, scratch : ndarray (num_virtual_ranks, num_samples, num_units)
            Both are overwritten.
        gain : ndarray (num_units,)
            That of `forward`.
        gradient : ndarray (num_virtual_ranks, 2, num_units)
            Overwritten with the derivatives by bias and gain.
        """


class BatchNormalization:
    """Means and variances over the samples of each virtual rank.

    Parameters
    ----------
    num_virtual_ranks, num_samples, num_units : int
        The shape.
    shares : ndarray (num_virtual_ranks, 1, num_samples)
        Of each sample in the means: one over the number of samples of its virtual rank, and 0 for
        padding. Of whoever fills the batch, and read in every pass.
    dtype : dtype
        float32 or float64.

    Attributes
    ----------
    means, variances : ndarray (num_virtual_ranks, 1, num_units)
        After `forward`; the variances without correction.

    References
    ----------
    S. Ioffe, C. Szegedy, "Batch Normalization", ICML (2015), algorithm 1 and the derivatives in
    section 3.
    """

    def __init__(
        self,
        num_virtual_ranks: int,
        num_samples: int,
        num_units: int,
        shares: Array,
        dtype: DTypeLike,
    ) -> None:
        self._shares = shares
        self._columns = shares.transpose(0, 2, 1)
        self._ones = np.ones((1, num_samples), dtype)
        self._normalized = np.empty((num_virtual_ranks, num_samples, num_units), dtype)
        per_unit = (num_virtual_ranks, 1, num_units)
        self.means, self.variances, self._inverses = (np.empty(per_unit, dtype) for _ in range(3))
        self._factors = np.empty(per_unit, dtype)

    def forward(self, z: Array, gain: Array, bias: Array, scratch: Array) -> None:
        """See `Normalization`."""
        normalized = self._normalized
        np.matmul(self._shares, z, out=self.means)
        np.subtract(z, self.means, out=normalized)
        self._clear_padding()
        np.multiply(normalized, normalized, out=scratch)
        np.matmul(self._shares, scratch, out=self.variances)
        _invert_root(self.variances, self._inverses)
        np.multiply(normalized, self._inverses, out=normalized)
        np.multiply(normalized, gain, out=z)
        np.add(z, bias, out=z)

    def backward(self, delta: Array, gain: Array, gradient: Array, scratch: Array) -> None:
        """See `Normalization`.

        By z: gain / sqrt(variance + EPSILON) * (delta - share (sum of delta + normalized z * (sum
        of delta * normalized z))), which is Ioffe and Szegedy's six derivatives in one.
        """
        normalized = self._normalized
        bias_gradient, gain_gradient = _parameter_gradients(
            delta, normalized, gradient, scratch, self._ones
        )
        np.multiply(normalized, gain_gradient, out=normalized)
        np.add(normalized, bias_gradient, out=normalized)
        np.multiply(normalized, self._columns, out=normalized)
        np.subtract(delta, normalized, out=delta)
        np.multiply(self._inverses, gain, out=self._factors)
        np.multiply(delta, self._factors, out=delta)

    def _clear_padding(self) -> None:
        """Give padding the batch's mean.

        No variance tells how large it is. Where that is small or there is none, as of one sample,
        padding would grow by hundreds with every layer, until it is infinite; and that times its
        share, or its derivative, of 0 is not a number.
        """
        if not self._columns.all():
            np.multiply(self._normalized, self._columns != 0, out=self._normalized)


class LayerNormalization:
    """Mean and variance over the units of each sample.

    Parameters
    ----------
    num_virtual_ranks, num_samples, num_units : int
        The shape.
    dtype : dtype
        float32 or float64.

    References
    ----------
    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization" (2016), equation 4.
    """

    def __init__(
        self, num_virtual_ranks: int, num_samples: int, num_units: int, dtype: DTypeLike
    ) -> None:
        self._ones = np.ones((1, num_samples), dtype)
        self._shares = np.full((num_units, 1), 1.0 / num_units, dtype)
        self._normalized = np.empty((num_virtual_ranks, num_samples, num_units), dtype)
        per_sample = (num_virtual_ranks, num_samples, 1)
        self._means, self._variances, self._inverses = (
            np.empty(per_sample, dtype) for _ in range(3)
        )

    def forward(self, z: Array, gain: Array, bias: Array, scratch: Array) -> None:
        """See `Normalization`."""
        normalized = self._normalized
        np.matmul(z, self._shares, out=self._means)
        np.subtract(z, self._means, out=normalized)
        np.multiply(normalized, normalized, out=scratch)
        np.matmul(scratch, self._shares, out=self._variances)
        _invert_root(self._variances, self._inverses)
        np.multiply(normalized, self._inverses, out=normalized)
        np.multiply(normalized, gain, out=z)
        np.add(z, bias, out=z)

    def backward(self, delta: Array, gain: Array, gradient: Array, scratch: Array) -> None:
        """See `Normalization`.

        By z, where g = gain * delta: (g - mean of g - normalized z * (mean of g * normalized z)) /
        sqrt(variance + EPSILON).
        """
        normalized = self._normalized
        _parameter_gradients(delta, normalized, gradient, scratch, self._ones)
        np.multiply(delta, gain, out=delta)
        np.matmul(delta, self._shares, out=self._means)
        np.multiply(delta, normalized, out=scratch)
        np.matmul(scratch, self._shares, out=self._variances)
        np.multiply(normalized, self._variances, out=normalized)
        np.add(normalized, self._means, out=normalized)
        np.subtract(delta, normalized, out=delta)
        np.multiply(delta, self._inverses, out=delta)


def fold(layer: Array, running: Array) -> Array:
    """Return a layer that does what it and its batch normalization do in evaluation.

    Parameters
    ----------
    layer : ndarray (fan_in + 2, fan_out)
        Weights, bias and gain.
    running : ndarray (2, fan_out)
        The running means and variances of its pre-activations, which are a W without a bias.

    Returns
    -------
    ndarray (fan_in + 1, fan_out)
        Weights and bias of: gain * (a W - mean) / sqrt(variance + EPSILON) + bias.

    References
    ----------
    Ioffe and Szegedy 2015, algorithm 2, step 11.
    """
    weights, bias, gain = layer[:-2], layer[-2], layer[-1]
    mean, variance = running
    factor = np.empty_like(gain)
    _invert_root(variance, factor)
    np.multiply(factor, gain, out=factor)
    folded: Array = np.concatenate([weights * factor, (bias - mean * factor)[np.newaxis]])
    return folded


def _invert_root(variances: Array, out: Array) -> None:
    np.add(variances, EPSILON, out=out)
    np.sqrt(out, out=out)
    np.divide(1.0, out, out=out)


def _parameter_gradients(
    delta: Array, normalized: Array, gradient: Array, scratch: Array, ones: NDArray[np.floating]
) -> tuple[Array, Array]:
    """Write the derivatives by bias and gain, and return views of them that fit the samples."""
    bias_gradient, gain_gradient = gradient[:, :1], gradient[:, 1:]
    np.matmul(ones, delta, out=bias_gradient)
    np.multiply(delta, normalized, out=scratch)
    np.matmul(ones, scratch, out=gain_gradient)
    return bias_gradient, gain_gradient
