"""Learning rates as pure functions of the step, so that a schedule has no state to save."""

import math
from dataclasses import dataclass

# One-cycle starts at the peak / 25 and ends at that / 10,000, with 30 % of the steps going up.
ONE_CYCLE_RISE = 0.3
ONE_CYCLE_START = 1.0 / 25.0
ONE_CYCLE_END = ONE_CYCLE_START / 1e4


def learning_rate_factor(scaling: str, global_batch_size: int, reference_batch_size: int) -> float:
    """Return what a learning rate is multiplied by that was chosen for another batch size.

    Parameters
    ----------
    scaling : str
        "none", "linear" or "sqrt".
    global_batch_size : int
        Samples of one step.
    reference_batch_size : int
        Samples of one step for which the rate was chosen.

    References
    ----------
    Linear: P. Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 2.1.
    Square root: A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks"
    (2014), section 5.
    """
    ratio = global_batch_size / reference_batch_size
    return {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[scaling]


@dataclass(frozen=True)
class Schedule:
    """The learning rate at every step.

    Parameters
    ----------
    kind : str
        "constant", "step", "cosine" or "one_cycle".
    learning_rate : float
        The peak.
    num_steps : int
        Steps of the whole training.
    warmup_steps : int
        Steps of linear warm-up before the schedule proper begins.
    decay_steps : int
        "step": after every so many steps, the rate is multiplied by `decay_factor`.
    decay_factor : float
        "step": see there. "cosine": not used.
    final_learning_rate : float
        "cosine": where the rate ends.
    """

    kind: str
    learning_rate: float
    num_steps: int
    warmup_steps: int = 0
    decay_steps: int = 1
    decay_factor: float = 0.1
    final_learning_rate: float = 0.0

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step.

        Parameters
        ----------
        step : int
            Counted from 0.

        References
        ----------
        Warm-up: P. Goyal et al., "Accurate, Large Minibatch SGD" (2017), section 2.2.
        Cosine: I. Loshchilov, F. Hutter, "SGDR" (2017), equation 5, without restarts.
        One-cycle: L. N. Smith, N. Topin, "Super-Convergence" (2018), annealed by cosines.
        """
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        step -= self.warmup_steps
        if self.kind == "step":
            return self.learning_rate * self.decay_factor ** (step // self.decay_steps)
        if self.kind == "cosine":
            return _cosine(self.learning_rate, self.final_learning_rate, self._progress(step))
        if self.kind == "one_cycle":
            return self.learning_rate * _one_cycle(self._progress(step))
        return self.learning_rate

    def _progress(self, step: int) -> float:
        """Fraction of the steps after the warm-up that are done: 0 at the first, below 1."""
        return min(1.0, step / max(1, self.num_steps - self.warmup_steps))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * progress)) / 2.0


def _one_cycle(progress: float) -> float:
    if progress < ONE_CYCLE_RISE:
        return _cosine(ONE_CYCLE_START, 1.0, progress / ONE_CYCLE_RISE)
    return _cosine(1.0, ONE_CYCLE_END, (progress - ONE_CYCLE_RISE) / (1.0 - ONE_CYCLE_RISE))
