"""Optimizers: updates of one flat parameter vector.

An optimizer keeps its state as named flat arrays, and what depends on time it takes from the
step number, so saving `state` and the step is all that a checkpoint needs. `OPTIMIZERS` lists
them by name.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lockstep.arrays import Array
from lockstep.optim.norms import NORM_BLOCK_SIZE, norm, norm_blocks, norm_of_parts
from lockstep.optim.slices import blocks, overlaps

# Elements that go through all operations of an update before the next ones do, so that they
# stay in the cache. Smaller blocks are slower: every operation on a block has its price too.
_BLOCK_SIZE = 131_072
# What decays and is not renewed, as of units that no sample reaches any more, would become
# denormal, and processors compute with such numbers many times slower. So, every so many steps,
# what is less than so many times the smallest normal number is made zero: too little to move a
# parameter. A decay of 0.9 or more doesn't get from there to the denormal ones until the next time.
_FLUSH_EVERY_STEPS = 64
_FLUSH_BELOW = 1000
# A layer with a smaller norm counts as zero, for what is divided by it might overflow.
_SMALLEST_NORM = 1e-30


@dataclass(frozen=True)
class Hyperparameters:
    """What an optimizer may be tuned by; each takes the fields that concern it."""

    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    trust_coefficient: float = 0.001


class Optimizer:
    """Plain stochastic gradient descent, and what all optimizers share.

    A step has two halves. `make_update` turns the gradient into the update, and may do so for
    any slice, because all of it is element-wise: ranks can share that work. `apply` takes the
    update to a replica of the parameters, and has all of it for what depends on whole layers.
    `step` does both, for whoever shares with nobody.

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
    slots : tuple of str
        Names of the state's arrays.
    keeps_whole_state : bool
        Whether every rank has all of the state, because `apply` updates it.
    state : dict of str to ndarray (num_parameters,)
        Updated in place by `make_update`, where it makes the update, or by `apply`.
    """

    slots: tuple[str, ...] = ()
    keeps_whole_state = False

    def __init__(
        self, like: Array, weight_slices: Sequence[slice], hyperparameters: Hyperparameters
    ) -> None:
        # NumPy's zeros take no memory before they are written: a rank that makes a part of the
        # update only has that part of the state.
        self.state = {slot: np.zeros(like.shape, like.dtype) for slot in self.slots}
        self._scratch = np.empty(min(like.size, _BLOCK_SIZE), like.dtype)
        self._hyperparameters = hyperparameters
        self._blocks = [
            (block, list(overlaps(block, weight_slices)))
            for block in blocks(slice(0, like.size), _BLOCK_SIZE)
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
        for block in blocks(where, _BLOCK_SIZE):
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
        # Not where every rank has the whole state, but makes a part of the update only.
        if step % _FLUSH_EVERY_STEPS == 0 and not self.keeps_whole_state:
            for values in state:
                _flush(values, scratch)
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


class LayerWise(Optimizer):
    """What gives the weights of each layer a rate of their own, by their norm.

    The norms are taken in `apply`, where every rank has the whole update. Biases, and the gains of
    normalized layers, take steps at the learning rate, without decay.

    Parameters
    ----------
    like, weight_slices, hyperparameters
        As for `Optimizer`. The slices are in ascending order, one for each layer.
    """

    def __init__(
        self, like: Array, weight_slices: Sequence[slice], hyperparameters: Hyperparameters
    ) -> None:
        super().__init__(like, weight_slices, hyperparameters)
        self._change = np.empty(min(like.size, NORM_BLOCK_SIZE), like.dtype)
        self._weight_slices = weight_slices
        starts = [0, *(weights.stop for weights in weight_slices)]
        stops = [*(weights.start for weights in weight_slices), like.size]
        self._other_slices = [slice(*pair) for pair in zip(starts, stops, strict=True)]

    def apply(self, parameters: Array, update: Array, learning_rate: float) -> None:
        """Take the step of one replica, in place: see `Optimizer`."""
        for weights in self._weight_slices:
            rate = learning_rate * self._trust_ratio(parameters, update, weights)
            self._move(parameters, update, weights, rate, self._hyperparameters.weight_decay)
        for others in self._other_slices:
            self._move(parameters, update, others, learning_rate, 0.0)

    def step(self, parameters: Array, gradient: Array, learning_rate: float, step: int) -> None:
        """Make the update and apply it: see `Optimizer`."""
        self.make_update(gradient, slice(0, parameters.size), learning_rate, step)
        self.apply(parameters, gradient, learning_rate)

    def _trust_ratio(self, parameters: Array, update: Array, weights: slice) -> float:
        """Return what the learning rate of a layer's weights is multiplied by."""
        raise NotImplementedError

    def _move(
        self, parameters: Array, update: Array, where: slice, rate: float, weight_decay: float
    ) -> None:
        for block in norm_blocks(where):
            change = self._decayed(parameters[block], update[block], weight_decay)
            np.multiply(change, rate, out=change)
            self._take(parameters[block], change, block)

    def _decayed(self, parameters: Array, update: Array, weight_decay: float) -> Array:
        """Return update + weight_decay * parameters of a block, until the next one."""
        change = self._change[: parameters.size]
        np.multiply(parameters, weight_decay, out=change)
        np.add(change, update, out=change)
        return change

    def _take(self, parameters: Array, change: Array, block: slice) -> None:
        """Take the step of a block: p <- p - change."""
        del block
        np.subtract(parameters, change, out=parameters)


class LARS(LayerWise):
    """Layer-wise adaptive rate scaling: momentum of gradients that are scaled layer by layer.

    With g the gradient, of which weights w have the decay added:
    v <- momentum v + learning_rate ratio (g + weight_decay w); p <- p - v, where
    ratio = trust_coefficient |w| / (|g| + weight_decay |w|). It is 1 for a layer whose weights or
    gradient are zero.

    References
    ----------
    Y. You, I. Gitman, B. Ginsburg, "Large Batch Training of Convolutional Networks" (2017),
    equation 6 and algorithm 1.
    """

    slots = ("velocity",)
    keeps_whole_state = True

    def _make(
        self,
        gradient: Array,
        state: tuple[Array, ...],
        scratch: Array,
        learning_rate: float,
        step: int,
    ) -> None:
        """Leave the gradient as it is: its norm decides all that follows."""
        del gradient, state, scratch, learning_rate, step

    def _trust_ratio(self, parameters: Array, update: Array, weights: slice) -> float:
        options = self._hyperparameters
        weights_norm, gradient_norm = norm(parameters[weights]), norm(update[weights])
        if min(weights_norm, gradient_norm) < _SMALLEST_NORM:
            return 1.0
        decayed_norm = gradient_norm + options.weight_decay * weights_norm
        return options.trust_coefficient * weights_norm / decayed_norm

    def _take(self, parameters: Array, change: Array, block: slice) -> None:
        velocity = self.state["velocity"][block]
        np.multiply(velocity, self._hyperparameters.momentum, out=velocity)
        np.add(velocity, change, out=velocity)
        np.subtract(parameters, velocity, out=parameters)


class LAMB(LayerWise, Adam):
    """Layer-wise adaptive moments: Adam's direction, as long as the layer's weights are.

    With r the bias-corrected first moment over the root of the second: weights w take the step
    w <- w - learning_rate ratio (r + weight_decay w), where ratio = |w| / |r + weight_decay w|.
    It is 1 for a layer in which either is zero.

    References
    ----------
    Y. You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", ICLR
    (2020), algorithm 2, where the norm is not limited: phi(z) = z.
    """

    def _make(
        self,
        gradient: Array,
        state: tuple[Array, ...],
        scratch: Array,
        learning_rate: float,
        step: int,
    ) -> None:
        """Turn a block of the gradient into Adam's direction; the rate comes layer by layer."""
        del learning_rate
        super()._make(gradient, state, scratch, 1.0, step)

    def _trust_ratio(self, parameters: Array, update: Array, weights: slice) -> float:
        weight_decay = self._hyperparameters.weight_decay
        weights_norm = norm(parameters[weights])
        direction_norm = norm_of_parts(
            self._decayed(parameters[block], update[block], weight_decay)
            for block in norm_blocks(weights)
        )
        if min(weights_norm, direction_norm) < _SMALLEST_NORM:
            return 1.0
        return weights_norm / direction_norm


def _flush(values: Array, scratch: Array) -> None:
    """Make values zero that are about to become denormal; what is not finite stays so."""
    np.absolute(values, out=scratch)
    np.greater_equal(scratch, _FLUSH_BELOW * np.finfo(values.dtype).tiny, out=scratch)
    np.multiply(values, scratch, out=values)


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": Optimizer,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "adam": Adam,
    "adamw": AdamW,
    "lars": LARS,
    "lamb": LAMB,
}
