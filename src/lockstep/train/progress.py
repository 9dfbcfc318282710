"""How far a training has come."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from lockstep.train.evaluation import Score


@dataclass
class Progress:
    """How far a training has come, and its best epoch so far; a checkpoint holds all of it.

    Parameters
    ----------
    step, epoch : int
        Steps and whole epochs done.
    best_epoch, best_step, best_correct, best_loss : int or float or None
        The epoch with the best validation score so far, its last step, and the score.
    loss_sum : float
        Over the samples of the epoch that is under way.
    num_skipped_steps : int
        How many of all steps had no update, for they were not finite.
    num_skipped_samples : int
        What is missing in the loss sum for it.
    spent_s : dict of str to float
        Seconds of that epoch, see `Clock`.
    """

    step: int = 0
    epoch: int = 0
    best_epoch: int = 0
    best_step: int = 0
    best_correct: int = -1
    best_loss: float | None = None
    loss_sum: float = 0.0
    num_skipped_steps: int = 0
    num_skipped_samples: int = 0
    spent_s: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> "Progress":
        """Read it from a checkpoint's facts."""
        return cls(**{own.name: facts[own.name] for own in fields(cls) if own.name in facts})

    def is_best(self, score: Score | None) -> bool:
        """Take note of an epoch's score: more correct samples win, among equals the lower loss.

        Without a validation split the newest epoch always counts as the best.
        """
        if score is not None:
            if self.best_loss is not None and (score.correct, -score.loss) <= (
                self.best_correct,
                -self.best_loss,
            ):
                return False
            self.best_correct, self.best_loss = score.correct, score.loss
        self.best_epoch, self.best_step = self.epoch, self.step
        return True
