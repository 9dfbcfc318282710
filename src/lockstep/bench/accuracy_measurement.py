"""What a comparison of the times to an accuracy has measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from lockstep.bench.contestants import LOCKSTEP

# In percent, of the validation split.
THRESHOLDS = (97, 98)


@dataclass(frozen=True)
class Curve:
    """One training.

    Parameters
    ----------
    seconds : list of float
        Since its beginning, after each epoch's evaluation.
    correct : list of int
        Validation samples classified correctly then.
    """

    seconds: list[float]
    correct: list[int]


@dataclass(frozen=True)
class AccuracyMeasurement:
    """One network, trained by all with several seeds.

    Parameters
    ----------
    data, network : str
        The data set's name, and the network's widths.
    num_parameters, global_batch_size, num_epochs : int
        What was measured.
    learning_rate : float
        Of AdamW.
    num_validation : int
        Samples of the validation split.
    curves : dict of str to list of Curve
        By contestant and seed.
    absent : dict of str to str
        Why a peer took no part.
    """

    data: str
    network: str
    num_parameters: int
    global_batch_size: int
    num_epochs: int
    learning_rate: float
    num_validation: int
    curves: dict[str, list[Curve]]
    absent: dict[str, str]

    def seconds_to(self, contestant: str, threshold: int) -> list[float | None]:
        """Return the seconds to so many percent by seed; None where they were not reached."""
        return [self._seconds(curve, threshold) for curve in self.curves[contestant]]

    def _seconds(self, curve: Curve, threshold: int) -> float | None:
        enough = (
            seconds
            for seconds, correct in zip(curve.seconds, curve.correct, strict=True)
            if 100 * correct >= threshold * self.num_validation
        )
        return next(enough, None)

    def ratios(self, contestant: str, threshold: int) -> list[float]:
        """Return how many times as long as Lockstep it took, of the seeds where both got there."""
        theirs = self.seconds_to(contestant, threshold)
        ours = self.seconds_to(LOCKSTEP, threshold)
        return [a / b for a, b in zip(theirs, ours, strict=True) if a is not None and b is not None]

    def epoch_s(self, contestant: str) -> list[float]:
        """Return the mean seconds of an epoch with its evaluation, by seed."""
        return [curve.seconds[-1] / len(curve.seconds) for curve in self.curves[contestant]]

    def accuracies(self, curve: Curve) -> list[float]:
        """Return the fraction of the validation split classified correctly, by epoch."""
        return [correct / self.num_validation for correct in curve.correct]

    def best_accuracies(self, contestant: str) -> list[float]:
        """Return the highest fraction of the validation split, by seed."""
        return [max(self.accuracies(curve)) for curve in self.curves[contestant]]


def reached(seconds: Sequence[float | None]) -> list[float]:
    """Return the times of those that got there."""
    return [value for value in seconds if value is not None]
