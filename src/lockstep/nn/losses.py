"""Output layers with their losses.

Arrays are (virtual ranks, classes, samples); a sample's target is a one-hot column. Losses are
per sample and never averaged here: sums over samples are divided once, by whoever knows how
many samples there are in all.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lockstep.arrays import Array
from lockstep.nn.functional import sigmoid


@dataclass(frozen=True)
class Loss:
    """An output layer and its loss.

    ``output(z)`` turns pre-activations into the network's outputs, in place.
    ``evaluate(z, target, losses, scratch)`` does the same and also writes each sample's loss to
    `losses` (virtual ranks, 1, samples). ``delta(output, target, delta, scratch)`` writes the
    derivative of each sample's loss by its pre-activations. `scratch` and `delta` have the shape
    of `z`.
    """

    output: Callable[[Array], None]
    evaluate: Callable[[Array, Array, Array, Array], None]
    delta: Callable[[Array, Array, Array, Array], None]


def softmax(z: Array) -> None:
    """Softmax over the classes of each sample, in place.

    The sample's own largest pre-activation is subtracted first, so nothing overflows
    (C. M. Bishop, "Pattern Recognition and Machine Learning" (2006), equation 4.104).
    """
    np.subtract(z, z.max(axis=1, keepdims=True), out=z)
    np.exp(z, out=z)
    np.divide(z, z.sum(axis=1, keepdims=True), out=z)


def cross_entropy(z: Array, target: Array, losses: Array, scratch: Array) -> None:
    """Softmax in place, and -log of the true class's probability to `losses`.

    Computed as log(sum(exp(z))) - z_true, which stays finite where the probability rounds to 0
    (Bishop 2006, equation 4.108, for a one-hot target).
    """
    largest = losses
    np.maximum.reduce(z, axis=1, keepdims=True, out=largest)
    np.subtract(z, largest, out=z)
    z_true = losses
    np.multiply(z, target, out=scratch)
    np.add.reduce(scratch, axis=1, keepdims=True, out=z_true)
    total = scratch[:, :1]
    np.exp(z, out=z)
    np.add.reduce(z, axis=1, keepdims=True, out=total)
    np.divide(z, total, out=z)
    np.log(total, out=total)
    np.subtract(total, z_true, out=losses)


def cross_entropy_delta(output: Array, target: Array, delta: Array, scratch: Array) -> None:
    """Write softmax with cross-entropy's derivative, output - target (Bishop 2006, eq. 4.109)."""
    del scratch
    np.subtract(output, target, out=delta)


def sigmoid_output(z: Array) -> None:
    """Logistic function of each output, in place."""
    sigmoid(z, z, z)


def quadratic(z: Array, target: Array, losses: Array, scratch: Array) -> None:
    """Sigmoid in place, and half the squared distance to the target to `losses`.

    M. Nielsen, "Neural Networks and Deep Learning" (2015), equation 6.
    """
    sigmoid_output(z)
    np.subtract(z, target, out=scratch)
    np.multiply(scratch, scratch, out=scratch)
    np.add.reduce(scratch, axis=1, keepdims=True, out=losses)
    np.multiply(losses, 0.5, out=losses)


def quadratic_delta(output: Array, target: Array, delta: Array, scratch: Array) -> None:
    """Write the derivative of sigmoid with the quadratic cost (Nielsen 2015, equation 30).

    (output - target) output (1 - output).
    """
    np.subtract(1.0, output, out=delta)
    np.multiply(delta, output, out=delta)
    np.subtract(output, target, out=scratch)
    np.multiply(delta, scratch, out=delta)


LOSSES = {
    "cross_entropy": Loss(softmax, cross_entropy, cross_entropy_delta),
    "quadratic": Loss(sigmoid_output, quadratic, quadratic_delta),
}
