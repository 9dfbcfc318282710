"""Initial weights, drawn per layer from the run's own random streams."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from lockstep.arrays import Array
from lockstep.nn.mlp import MLP
from lockstep.streams import Purpose, philox

Draw = Callable[[np.random.Generator, int, int], NDArray[np.float64]]


def standard_normal(generator: np.random.Generator, fan_in: int, fan_out: int) -> Array:
    """Draw weights and biases from N(0, 1) (Nielsen 2015, chapter 1)."""
    return generator.standard_normal((fan_in + 1, fan_out))


def glorot_uniform(generator: np.random.Generator, fan_in: int, fan_out: int) -> Array:
    """Draw weights within sqrt(6 / (fan_in + fan_out)) of 0, biases 0.

    X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS (2010), equation 16.
    """
    return _uniform(generator, fan_in, fan_out, np.sqrt(6.0 / (fan_in + fan_out)))


def glorot_normal(generator: np.random.Generator, fan_in: int, fan_out: int) -> Array:
    """Draw weights of variance 2 / (fan_in + fan_out) (Glorot, Bengio 2010, equation 12)."""
    return _normal(generator, fan_in, fan_out, np.sqrt(2.0 / (fan_in + fan_out)))


def he_uniform(generator: np.random.Generator, fan_in: int, fan_out: int) -> Array:
    """Draw weights within sqrt(6 / fan_in) of 0, the variance of `he_normal`, biases 0."""
    return _uniform(generator, fan_in, fan_out, np.sqrt(6.0 / fan_in))


def he_normal(generator: np.random.Generator, fan_in: int, fan_out: int) -> Array:
    """Draw normal weights of variance 2 / fan_in, biases 0.

    K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", ICCV (2015), equation 10.
    """
    return _normal(generator, fan_in, fan_out, np.sqrt(2.0 / fan_in))


def initialize(initializer: str, network: MLP, parameters: Array, seed: int) -> None:
    """Fill a flat parameter vector.

    Weights and biases are drawn. Normalization begins with a gain of 1, and with running means of
    0 and variances of 1.

    Parameters
    ----------
    initializer : str
        A key of `INITIALIZERS`.
    network : MLP
        Tells the layers.
    parameters : ndarray (num_parameters,)
        Overwritten. Numbers are drawn in float64 and rounded to its type, so a float32 run starts
        from the rounded weights of the float64 run.
    seed : int
        The run's seed.
    """
    draw = INITIALIZERS[initializer]
    shapes = pairwise(network.widths)
    for index, (layer, (fan_in, fan_out)) in enumerate(
        zip(network.layers(parameters), shapes, strict=True)
    ):
        generator = np.random.Generator(philox(seed, Purpose.INITIAL_WEIGHTS, index))
        layer[: fan_in + 1] = draw(generator, fan_in, fan_out)
        layer[fan_in + 1 :] = 1
    for means, variances in network.statistics(parameters):
        means.fill(0)
        variances.fill(1)


def _uniform(generator: np.random.Generator, fan_in: int, fan_out: int, limit: float) -> Array:
    return _with_zero_bias(generator.uniform(-limit, limit, (fan_in, fan_out)))


def _normal(generator: np.random.Generator, fan_in: int, fan_out: int, deviation: float) -> Array:
    return _with_zero_bias(deviation * generator.standard_normal((fan_in, fan_out)))


def _with_zero_bias(weight: Array) -> Array:
    return np.concatenate([weight, np.zeros((1, weight.shape[1]))])


INITIALIZERS: dict[str, Draw] = {
    "standard_normal": standard_normal,
    "glorot_uniform": glorot_uniform,
    "glorot_normal": glorot_normal,
    "he_uniform": he_uniform,
    "he_normal": he_normal,
}
