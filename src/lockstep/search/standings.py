"""Who is the best: the trials' scores on the validation split, from their run folders."""

from collections.abc import Sequence
from dataclasses import dataclass

from lockstep.config import load_config
from lockstep.storage.run_folder import RunFolder, read_json_lines


@dataclass(frozen=True)
class Standing:
    """How a trial stands.

    Parameters
    ----------
    trial : int
        Its number.
    epochs : int
        That were trained.
    accuracy, loss : float or None
        On the validation split, of the weights that would be tested; None where the training has
        diverged before its first evaluation.
    has_diverged : bool
        Whether it has ended so.
    rung : int
        The last one that it took part in, counted from 0.
    """

    trial: int
    epochs: int
    accuracy: float | None
    loss: float | None
    has_diverged: bool = False
    rung: int = 0

    @property
    def rank(self) -> tuple[bool, int, float, float, int]:
        """Sorts the best first: by rung, accuracy, loss and number; who diverged comes last.

        Not by epochs, for patience may end a good training early, and epochs may be searched for.
        """
        nothing = self.accuracy is None or self.loss is None
        return (
            self.has_diverged or nothing,
            -self.rung,
            -(self.accuracy or 0.0),
            self.loss or 0.0,
            self.trial,
        )


def standing_of(trial: int, folder: RunFolder, epochs: int, *, has_diverged: bool) -> Standing:
    """Read a trial's standing from its run folder.

    Parameters
    ----------
    trial : int
        Its number.
    folder : RunFolder
        Of its training, which may have gone further.
    epochs : int
        Later ones don't count.
    has_diverged : bool
        Whether that has ended it at last.
    """
    lines = read_json_lines(folder.metrics) if folder.metrics.exists() else []
    lines = [line for line in lines if line["epoch"] <= epochs]
    if not lines:
        return Standing(trial, 0, None, None, has_diverged)
    # What came later was in a longer search, or will be.
    has_diverged &= lines[-1]["epoch"] < epochs
    counted = lines
    if load_config(folder.config, {}).training.tested_weights == "last":
        counted = lines[-1:]
    best = min(counted, key=lambda line: (-line["val_accuracy"], line["val_loss"]))
    return Standing(trial, lines[-1]["epoch"], best["val_accuracy"], best["val_loss"], has_diverged)


def survivors(standings: Sequence[Standing], factor: int) -> list[int]:
    """Return the trials that go on, by number: the best one of `factor`, and at least one.

    Parameters
    ----------
    standings : sequence of Standing
        Of the trials that were in it until now.
    factor : int
        See `Sweep`.
    """
    best = sorted(standings, key=lambda standing: standing.rank)
    best = [standing for standing in best if not standing.has_diverged]
    return sorted(standing.trial for standing in best[: max(1, len(standings) // factor)])
