"""Optimizers: element-wise updates of one flat parameter vector.

An optimizer keeps its state as named flat arrays, and what depends on time it takes from the
step number, so saving `state` and the step is all that a checkpoint needs. `OPTIMIZERS` lists
them by name.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lockstep.arrays import Array


@dataclass(frozen=True)
class Hyperparameters:
    """What an optimizer may be tuned by; each takes the fields that concern it."""

    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0


class Optimizer:
    """Plain stochastic gradient descent, and what all optimizers share.

    Parameters
    ----------
    like : ndarray (num_parameters,)
        An array like the parameters: state and scratch are made after it.
    weight_slices : sequence of slice
        Where the weights lie. Decay applies to them and spares the biases.
    hyperparameters : Hyperparameters
        The tuning.

    Attributes
    ----------
    state : dict of str to ndarray (num_parameters,)
        Updated in place by `update`.
    """

    slots: tuple[str, ...] = ()

    def __init__(
        self, like: Array, weight_slices: Sequence[slice], hyperparameters: Hyperparameters
    ) -> None:
        self.state = {slot: np.zeros_like(like) for slot in self.slots}
        self._scratch = np.empty_like(like)
        self._weight_slices = weight_slices
        self._hyperparameters = hyperparameters

    def update(self, parameters: Array, gradient: Array, learning_rate: float, step: int) -> None:
        """Update `parameters` in place: p <- p - learning_rate * gradient.

        Parameters
        ----------
        parameters : ndarray (num_parameters,)
            Updated in place.
        gradient : ndarray (num_parameters,)
            The mean gradient. Read only, for it may be shared with other ranks.
        learning_rate : float
            Of this step.
        step : int
            Counted from 0.
        """
        del step
        np.multiply(gradient, learning_rate, out=self._scratch)
        np.subtract(parameters, self._scratch, out=parameters)


class Momentum(Optimizer):
    """Classical momentum: v <- momentum v + gradient; p <- p - learning_rate v.

    References
    ----------
    B. T. Polyak, "Some methods of speeding up the convergence of iteration methods" (1964); in
    this form, with the learning rate outside the velocity: I. Sutskever, J. Martens, G. Dahl,
    G. Hinton, "On the importance of initialization and momentum in deep learning", ICML (2013),
    equations 1 and 2, where the rate is constant.
    """

    slots = ("velocity",)

    def update(self, parameters: Array, gradient: Array, learning_rate: float, step: int) -> None:
        """Update `parameters` in place; see `Optimizer.update`."""
        self._accelerate(gradient)
        super().update(parameters, self.state["velocity"], learning_rate, step)

    def _accelerate(self, gradient: Array) -> None:
        velocity = self.state["velocity"]
        np.multiply(velocity, self._hyperparameters.momentum, out=velocity)
        np.add(velocity, gradient, out=velocity)


class Nesterov(Momentum):
    """Nesterov's momentum: v as in `Momentum`; p <- p - learning_rate (gradient + momentum v).

    References
    ----------
    Sutskever et al. 2013, equations 3 and 4, written for the point where the gradient is taken
    (Y. Bengio, N. Boulanger-Lewandowski, R. Pascanu, "Advances in optimizing recurrent
    networks" (2012), equation 7), where the rate is constant.
    """

    def update(self, parameters: Array, gradient: Array, learning_rate: float, step: int) -> None:
        """Update `parameters` in place; see `Optimizer.update`."""
        del step
        self._accelerate(gradient)
        np.multiply(self.state["velocity"], self._hyperparameters.momentum, out=self._scratch)
        np.add(self._scratch, gradient, out=self._scratch)
        np.multiply(self._scratch, learning_rate, out=self._scratch)
        np.subtract(parameters, self._scratch, out=parameters)


class Adam(Optimizer):
    """Adam: steps of the bias-corrected first moment over the root of the second.

    References
    ----------
    D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR (2015), algorithm 1.
    """

    slots = ("first_moment", "second_moment")

    def update(self, parameters: Array, gradient: Array, learning_rate: float, step: int) -> None:
        """Update `parameters` in place; see `Optimizer.update`."""
        beta1, beta2 = self._hyperparameters.beta1, self._hyperparameters.beta2
        first, second = self.state["first_moment"], self.state["second_moment"]
        scratch = self._scratch

        np.multiply(gradient, 1.0 - beta1, out=scratch)
        np.multiply(first, beta1, out=first)
        np.add(first, scratch, out=first)

        np.multiply(gradient, gradient, out=scratch)
        np.multiply(scratch, 1.0 - beta2, out=scratch)
        np.multiply(second, beta2, out=second)
        np.add(second, scratch, out=second)

        correction1 = 1.0 - beta1 ** (step + 1)
        correction2 = 1.0 - beta2 ** (step + 1)
        np.sqrt(second, out=scratch)
        np.multiply(scratch, 1.0 / math.sqrt(correction2), out=scratch)
        np.add(scratch, self._hyperparameters.epsilon, out=scratch)
        np.divide(first, scratch, out=scratch)
        np.multiply(scratch, learning_rate / correction1, out=scratch)
        np.subtract(parameters, scratch, out=parameters)


class AdamW(Adam):
    """Adam with decoupled weight decay: the weights also shrink by learning_rate weight_decay.

    References
    ----------
    I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR (2019), algorithm 2;
    as in PyTorch, the base learning rate multiplies the decay too, and biases are spared.
    """

    def update(self, parameters: Array, gradient: Array, learning_rate: float, step: int) -> None:
        """Update `parameters` in place; see `Optimizer.update`."""
        keep = 1.0 - learning_rate * self._hyperparameters.weight_decay
        for weights in self._weight_slices:
            np.multiply(parameters[weights], keep, out=parameters[weights])
        super().update(parameters, gradient, learning_rate, step)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": Optimizer,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "adam": Adam,
    "adamw": AdamW,
}
