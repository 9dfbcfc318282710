"""Activation functions and their derivatives, in place.

An activation is a pair of functions on arrays of any shape:

- ``apply(z, a, scratch)`` writes the activations of the pre-activations `z` to `a`;
- ``backward(delta, z, a, scratch)`` multiplies `delta` by the derivative at `z`.

`scratch` is an array of the same shape that both may overwrite, as `backward` may `z` and `a`. The
latter two are one and the same array unless the activation `keeps_input`, because most derivatives
follow from `a` alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lockstep.arrays import Array

LEAKY_SLOPE = 0.01
_GELU_SCALE = math.sqrt(2.0 / math.pi)
_GELU_CUBIC = 0.044715


@dataclass(frozen=True)
class Activation:
    """An activation function with its derivative (see the module's description)."""

    apply: Callable[[Array, Array, Array], None]
    backward: Callable[[Array, Array, Array, Array], None]
    keeps_input: bool = False


def sigmoid(z: Array, a: Array, scratch: Array) -> None:
    """Logistic function, 1 / (1 + exp(-z)), as (1 + tanh(z / 2)) / 2.

    The two are equal, the second can't overflow, and it is the faster one in NumPy.
    """
    del scratch
    np.multiply(z, 0.5, out=a)
    np.tanh(a, out=a)
    np.multiply(a, 0.5, out=a)
    np.add(a, 0.5, out=a)


def sigmoid_backward(delta: Array, z: Array, a: Array, scratch: Array) -> None:
    """Multiply `delta` by a (1 - a)."""
    del z
    np.subtract(1.0, a, out=scratch)
    np.multiply(scratch, a, out=scratch)
    np.multiply(delta, scratch, out=delta)


def tanh(z: Array, a: Array, scratch: Array) -> None:
    """Hyperbolic tangent."""
    del scratch
    np.tanh(z, out=a)


def tanh_backward(delta: Array, z: Array, a: Array, scratch: Array) -> None:
    """Multiply `delta` by 1 - a**2."""
    del z
    np.multiply(a, a, out=scratch)
    np.subtract(1.0, scratch, out=scratch)
    np.multiply(delta, scratch, out=delta)


def relu(z: Array, a: Array, scratch: Array) -> None:
    """Rectifier, max(z, 0)."""
    del scratch
    np.maximum(z, 0.0, out=a)


def relu_backward(delta: Array, z: Array, a: Array, scratch: Array) -> None:
    """Multiply `delta` by 1 where a > 0, else by 0 (0 at the kink)."""
    del z
    np.greater(a, 0.0, out=scratch)
    np.multiply(delta, scratch, out=delta)


def leaky_relu(z: Array, a: Array, scratch: Array) -> None:
    """Leaky rectifier, max(z, LEAKY_SLOPE z)."""
    np.multiply(z, LEAKY_SLOPE, out=scratch)
    np.maximum(z, scratch, out=a)


def leaky_relu_backward(delta: Array, z: Array, a: Array, scratch: Array) -> None:
    """Multiply `delta` by 1 where a > 0, else by LEAKY_SLOPE."""
    del z
    np.greater(a, 0.0, out=scratch)
    np.maximum(scratch, LEAKY_SLOPE, out=scratch)
    np.multiply(delta, scratch, out=delta)


def gelu(z: Array, a: Array, scratch: Array) -> None:
    """Gaussian error linear unit in its tanh form, z (1 + tanh u(z)) / 2.

    References
    ----------
    D. Hendrycks, K. Gimpel, "Gaussian Error Linear Units (GELUs)" (2016), section 2:
    u(z) = sqrt(2 / pi) (z + 0.044715 z**3).
    """
    _gelu_tanh(z, scratch)
    np.add(scratch, 1.0, out=scratch)
    np.multiply(scratch, 0.5, out=scratch)
    np.multiply(z, scratch, out=a)


def gelu_backward(delta: Array, z: Array, a: Array, scratch: Array) -> None:
    """Multiply `delta` by (1 + t) / 2 + z (1 - t**2) u'(z) / 2, where t = tanh u(z).

    `z` and `a` are overwritten: nothing needs them once the layer's weight gradient is known, and
    the caller passes them only after that.
    """
    _gelu_tanh(z, scratch)
    np.multiply(z, z, out=a)
    np.multiply(a, 3.0 * _GELU_CUBIC, out=a)
    np.add(a, 1.0, out=a)
    np.multiply(a, _GELU_SCALE, out=a)
    np.multiply(a, z, out=a)  # z u'(z)
    # (1 + t) / 2 + (1 - t**2) z u' / 2  =  (1 + t) / 2 * (1 + (1 - t) z u')
    np.multiply(delta, 0.5, out=delta)
    np.subtract(1.0, scratch, out=z)
    np.multiply(a, z, out=a)
    np.add(a, 1.0, out=a)
    np.multiply(delta, a, out=delta)
    np.add(scratch, 1.0, out=scratch)
    np.multiply(delta, scratch, out=delta)


def _gelu_tanh(z: Array, out: Array) -> None:
    np.multiply(z, z, out=out)
    np.multiply(out, _GELU_CUBIC, out=out)
    np.add(out, 1.0, out=out)
    np.multiply(out, z, out=out)
    np.multiply(out, _GELU_SCALE, out=out)
    np.tanh(out, out=out)


ACTIVATIONS = {
    "sigmoid": Activation(sigmoid, sigmoid_backward),
    "tanh": Activation(tanh, tanh_backward),
    "relu": Activation(relu, relu_backward),
    "leaky_relu": Activation(leaky_relu, leaky_relu_backward),
    "gelu": Activation(gelu, gelu_backward, keeps_input=True),
}
