"""What is done to the mean gradient before the optimizer sees it."""

import math
from collections.abc import Sequence

import numpy as np

from lockstep.arrays import Array
from lockstep.optim.norms import norm
from lockstep.optim.slices import overlaps


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
    for part in overlaps(where, weight_slices):
        gradient[part] += l2 * parameters[part]


def add_l1(
    gradient: Array, where: slice, parameters: Array, weight_slices: Sequence[slice], l1: float
) -> None:
    """Add a subgradient of the penalty l1 * (sum of absolute weights) to a slice, in place.

    Parameters
    ----------
    gradient, where, parameters, weight_slices
        As for `add_l2`.
    l1 : float
        Strength of the penalty: it is added to the gradient of positive weights, taken from that
        of negative ones, and those of 0 are left alone.

    References
    ----------
    R. Tibshirani, "Regression Shrinkage and Selection via the Lasso", Journal of the Royal
    Statistical Society B 58 (1996).
    """
    for part in overlaps(where, weight_slices):
        penalty = np.sign(parameters[part])
        np.multiply(penalty, l1, out=penalty)
        gradient[part] += penalty


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
    before = norm(gradient)
    if limit < before < math.inf:
        np.multiply(gradient, limit / before, out=gradient)
    return before
