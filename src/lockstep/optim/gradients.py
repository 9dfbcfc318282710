"""What is done to the mean gradient before the optimizer sees it."""

import math
from collections.abc import Sequence

import numpy as np

from lockstep.arrays import Array


def add_l2(
    gradient: Array, where: slice, parameters: Array, weight_slices: Sequence[slice], l2: float
) -> None:
    """Add the gradient of the penalty l2 / 2 * (sum of squared weights) to a slice, in place.

    Parameters
    ----------
    gradient : ndarray (num_parameters,)
        Updated in place within `where`.
    where : slice
        Which part.
    parameters : ndarray (num_parameters,)
        Of the same step.
    weight_slices : sequence of slice
        Where the weights lie; biases are not penalized.
    l2 : float
        Strength of the penalty.

    References
    ----------
    C. M. Bishop, "Pattern Recognition and Machine Learning" (2006), equation 5.112.
    """
    for weights in weight_slices:
        part = slice(max(weights.start, where.start), min(weights.stop, where.stop))
        if part.start < part.stop:
            gradient[part] += l2 * parameters[part]


def is_finite(values: Array) -> bool:
    """Return whether there is no infinity in a flat vector, and nothing that is not a number."""
    # The quickest way through memory; it may overflow where no single number does.
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(np.dot(values, values)) or bool(np.isfinite(values).all())


def clip_norm(gradient: Array, limit: float) -> float:
    """Scale the gradient, in place, so that its Euclidean norm is at most `limit`.

    Parameters
    ----------
    gradient : ndarray (num_parameters,)
        Updated in place.
    limit : float
        Largest norm that is left alone.

    Returns
    -------
    float
        The norm before. A norm that isn't finite leaves the gradient as it is.

    References
    ----------
    R. Pascanu, T. Mikolov, Y. Bengio, "On the difficulty of training recurrent neural
    networks", ICML (2013), algorithm 1.
    """
    # In float64, which doesn't overflow, and without BLAS, whose kernels may differ between ranks.
    norm = math.sqrt(np.add.reduce(np.square(gradient, dtype=np.float64)))
    if limit < norm < math.inf:
        np.multiply(gradient, limit / norm, out=gradient)
    return norm
