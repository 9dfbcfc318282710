"""Averages of the weights over the steps of a training."""

import math

import numpy as np

from lockstep.arrays import Array
from lockstep.config import Config

# The average takes the weights in so many times an epoch, not after every step: neighbours are
# much alike, and every time is one more way through memory.
_TIMES_PER_EPOCH = 64
# Elements at a time, which stay in the cache.
_BLOCK_SIZE = 131_072


class Averaging:
    """Keeps an average of the parameters, beside which the training goes on unchanged.

    The average after a step follows from the one before and the step's number, so it is all that a
    checkpoint needs.

    Parameters
    ----------
    config : Config
        Resolved; `averaging` is not "none".
    parameters : ndarray (num_parameters,)
        The replica.
    steps_per_epoch : int
        Of the training.

    Attributes
    ----------
    average : ndarray (num_parameters,)
        Updated in place.

    References
    ----------
    exponential: B. T. Polyak, A. B. Juditsky, "Acceleration of Stochastic Approximation by
    Averaging" (1992), with forgetting. last: P. Izmailov et al., "Averaging Weights Leads to Wider
    Optima and Better Generalization", UAI (2018), algorithm 1, with a shorter cycle.
    """

    def __init__(self, config: Config, parameters: Array, steps_per_epoch: int) -> None:
        epochs = config.optimization.averaging_epochs
        self._is_exponential = config.optimization.averaging == "exponential"
        self._parameters = parameters
        self.average = parameters.copy()
        self._scratch = np.empty(min(_BLOCK_SIZE, parameters.size), parameters.dtype)
        self._steps_per_epoch = steps_per_epoch
        self._interval = max(1, steps_per_epoch // _TIMES_PER_EPOCH)
        num_times = self._num_times(steps_per_epoch)
        self._newest_part = 1.0 - math.exp(-1.0 / (epochs * num_times))
        num_averaged_steps = round(min(epochs, config.training.epochs) * steps_per_epoch)
        num_steps = config.training.epochs * steps_per_epoch
        self._start = 0 if self._is_exponential else num_steps - num_averaged_steps

    def __call__(self, step: int) -> None:
        """Take the weights in after a step, counted from 1, if it is time to."""
        step_of_epoch = step % self._steps_per_epoch
        # The last step of an epoch counts, whatever the interval is.
        if step_of_epoch % self._interval:
            return
        weight = self.weight(step)
        for start in range(0, self.average.size, _BLOCK_SIZE):
            block = slice(start, start + _BLOCK_SIZE)
            average = self.average[block]
            change = self._scratch[: average.size]
            np.subtract(self._parameters[block], average, out=change)
            np.multiply(change, weight, out=change)
            np.add(average, change, out=average)

    def weight(self, step: int) -> float:
        """Return the newest weights' part of the average after a step that is taken in.

        One over the number of times so far gives their plain mean. For "exponential" it doesn't
        fall below what the time constant asks for; for "last" it is 1 before its epochs begin.
        """
        plain = 1.0 / max(1, self._num_times(step) - self._num_times(self._start))
        return max(plain, self._newest_part) if self._is_exponential else plain

    def _num_times(self, step: int) -> int:
        """Return how often weights have been taken in after so many steps."""
        epochs, step_of_epoch = divmod(step, self._steps_per_epoch)
        times_per_epoch = -(-self._steps_per_epoch // self._interval)
        return epochs * times_per_epoch + step_of_epoch // self._interval
