"""Optimizers: element-wise updates of one flat parameter vector.

An optimizer keeps its state as named flat arrays, and what depends on time it takes from the
step number, so saving `state` and the step is all that a checkpoint needs. `OPTIMIZERS` lists
them by name.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from lockstep.arrays import Array

# Elements that go through all operations of an update before the next ones do, so that they
# stay in the cache. Smaller blocks are slower: every operation on a block has its price too.
_BLOCK_SIZE = 131_072


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

    A step has two halves. `make_update` turns the gradient into the update, and may do so for
    any slice, because all of it is element-wise: ranks can share that work. `apply` takes the
    update to a replica of the parameters. `step` does both, for whoever shares with nobody.

    Parameters
    ----------
    like : ndarray (num_parameters,)
        An array like the parameters: the state is made after it.
    weight_slices : sequence of slice
        Where the weights lie. Decay applies to them and spares the biases.
    hyperparameters : Hyperparameters
        The tuning.

    Attributes
    ----------
    state : dict of str to ndarray (num_parameters,)
        Updated in place by `make_update`, where it makes the update.
    """

    slots: tuple[str, ...] = ()

    def __init__(
        self, like: Array, weight_slices: Sequence[slice], hyperparameters: Hyperparameters
    ) -> None:
        # NumPy's zeros take no memory before they are written: a rank that makes a part of the
        # update only has that part of the state.
        self.state = {slot: np.zeros(like.shape, like.dtype) for slot in self.slots}
        self._scratch = np.empty(min(like.size, _BLOCK_SIZE), like.dtype)
        self._hyperparameters = hyperparameters
        self._blocks = [
            (block, [part for weights in weight_slices if (part := _overlap(block, weights))])
            for block in _blocks(slice(0, like.size))
        ]

    def make_update(self, gradient: Array, where: slice, learning_rate: float, step: int) -> None:
        """Turn a slice of the mean gradient into the update, in place.

        Parameters
        ----------
        gradient : ndarray (num_parameters,)
            Overwritten with the update within `where`; the rest is neither read nor written.
        where : slice
            Which part.
        learning_rate : float
            Of this step.
        step : int
            Counted from 0.
        """
        for block in _blocks(where):
            self._make_block(gradient, block, learning_rate, step)

    def apply(self, parameters: Array, update: Array, learning_rate: float) -> None:
        """Take the step of one replica, in place.

        Parameters
        ----------
        parameters : ndarray (num_parameters,)
            Updated in place.
        update : ndarray (num_parameters,)
            Whole. Read only, for it may be shared with other ranks.
        learning_rate : float
            Of this step.
        """
        for block, weights in self._blocks:
            self._apply_block(parameters, update, block, weights, learning_rate)

    def step(self, parameters: Array, gradient: Array, learning_rate: float, step: int) -> None:
        """Make the update and apply it, block by block: the same bits, in one go through memory.

        Parameters
        ----------
        parameters : ndarray (num_parameters,)
            Updated in place.
        gradient : ndarray (num_parameters,)
            The mean gradient; overwritten with the update.
        learning_rate : float
            Of this step.
        step : int
            Counted from 0.
        """
        for block, weights in self._blocks:
            self._make_block(gradient, block, learning_rate, step)
            self._apply_block(parameters, gradient, block, weights, learning_rate)

    def _make_block(self, gradient: Array, block: slice, learning_rate: float, step: int) -> None:
        state = tuple(self.state[slot][block] for slot in self.slots)
        scratch = self._scratch[: block.stop - block.start]
        self._make(gradient[block], state, scratch, learning_rate, step)

    def _apply_block(
        self,
        parameters: Array,
        update: Array,
        block: slice,
        weights: list[slice],
        learning_rate: float,
    ) -> None:
        """Take the step of a block, of which `weights` are no biases: p <- p - update."""
        del weights, learning_rate
        np.subtract(parameters[block], update[block], out=parameters[block])

    def _make(
        self,
        gradient: Array,
        state: tuple[Array, ...],
        scratch: Array,
        learning_rate: float,
        step: int,
    ) -> None:
        """Turn a block of the gradient into learning_rate * gradient."""
        del state, scratch, step
        np.multiply(gradient, learning_rate, out=gradient)


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

    def _make(
        self,
        gradient: Array,
        state: tuple[Array, ...],
        scratch: Array,
        learning_rate: float,
        step: int,
    ) -> None:
        del scratch, step
        (velocity,) = state
        self._accelerate(velocity, gradient)
        np.multiply(velocity, learning_rate, out=gradient)

    def _accelerate(self, velocity: Array, gradient: Array) -> None:
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

    def _make(
        self,
        gradient: Array,
        state: tuple[Array, ...],
        scratch: Array,
        learning_rate: float,
        step: int,
    ) -> None:
        del step
        (velocity,) = state
        self._accelerate(velocity, gradient)
        np.multiply(velocity, self._hyperparameters.momentum, out=scratch)
        np.add(scratch, gradient, out=gradient)
        np.multiply(gradient, learning_rate, out=gradient)


class Adam(Optimizer):
    """Adam: steps of the bias-corrected first moment over the root of the second.

    References
    ----------
    D. P. Kingma, J. Ba, "Adam: A Method for Stochastic Optimization", ICLR (2015), algorithm 1.
    """

    slots = ("first_moment", "second_moment")

    def _make(
        self,
        gradient: Array,
        state: tuple[Array, ...],
        scratch: Array,
        learning_rate: float,
        step: int,
    ) -> None:
        beta1, beta2 = self._hyperparameters.beta1, self._hyperparameters.beta2
        first, second = state

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
        np.divide(first, scratch, out=gradient)
        np.multiply(gradient, learning_rate / correction1, out=gradient)


class AdamW(Adam):
    """Adam with decoupled weight decay: the weights also shrink by learning_rate weight_decay.

    References
    ----------
    I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR (2019), algorithm 2;
    as in PyTorch, the base learning rate multiplies the decay too, and biases are spared.
    """

    def _apply_block(
        self,
        parameters: Array,
        update: Array,
        block: slice,
        weights: list[slice],
        learning_rate: float,
    ) -> None:
        keep = 1.0 - learning_rate * self._hyperparameters.weight_decay
        for part in weights:
            np.multiply(parameters[part], keep, out=parameters[part])
        super()._apply_block(parameters, update, block, weights, learning_rate)


def _blocks(where: slice) -> Iterator[slice]:
    for start in range(where.start, where.stop, _BLOCK_SIZE):
        yield slice(start, min(start + _BLOCK_SIZE, where.stop))


def _overlap(a: slice, b: slice) -> slice | None:
    start, stop = max(a.start, b.start), min(a.stop, b.stop)
    return slice(start, stop) if start < stop else None


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": Optimizer,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "adam": Adam,
    "adamw": AdamW,
}
