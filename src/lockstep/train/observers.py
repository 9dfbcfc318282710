"""What watches a training.

The root rank gets observers that write and print, the other ranks get one that does nothing, so
the loop never asks for its rank.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from lockstep.arrays import Array
from lockstep.train.evaluation import Examination
from lockstep.train.trace import TraceLine

if TYPE_CHECKING:
    from tqdm import tqdm


@dataclass(frozen=True)
class EpochResult:
    """One epoch, as `metrics.jsonl` tells it.

    Parameters
    ----------
    epoch, step : int
        Epochs and steps done.
    num_skipped_steps : int
        How many of these steps had no update, for they were not finite.
    train_loss : float
        Mean over the epoch's samples, each at the step that it was part of; without those of
        skipped steps.
    val_loss, val_accuracy, val_correct, val_total : float or int or None
        On the validation split; None where there is none.
    lr : float
        Learning rate of the epoch's last step.
    epoch_s : float
        Seconds, with evaluation.
    samples_per_s : float
        Training samples per second, without evaluation.
    compute_s, reduce_s, update_s, data_s, evaluation_s : float
        Seconds by phase, on the root rank. Adding up a rank's own virtual ranks is part of
        compute; waiting for other ranks is part of reduce and evaluation.
    """

    epoch: int
    step: int
    num_skipped_steps: int
    train_loss: float
    val_loss: float | None
    val_accuracy: float | None
    val_correct: int | None
    val_total: int | None
    lr: float
    epoch_s: float
    samples_per_s: float
    compute_s: float
    reduce_s: float
    update_s: float
    data_s: float
    evaluation_s: float


@dataclass(frozen=True)
class Snapshot:
    """The state of a replica, for whoever saves it; not a copy.

    Parameters
    ----------
    parameters : ndarray (num_parameters,)
        The flat vector.
    optimizer_state : mapping of str to ndarray (num_parameters,)
        By name; complete on the root only.
    average : ndarray (num_parameters,), optional
        Of the weights, where one is kept.
    best_parameters : ndarray (num_parameters,), optional
        Those with the best validation score so far, where they are others and still wanted.
    progress : mapping
        Step, epoch, best score and more, as JSON can hold them.
    is_best : bool
        Whether the validation score is the best so far.
    """

    parameters: Array
    optimizer_state: Mapping[str, Array]
    average: Array | None
    best_parameters: Array | None
    progress: Mapping[str, Any]
    is_best: bool


@dataclass(frozen=True)
class Outcome:
    """A finished training.

    Parameters
    ----------
    parameters : ndarray (num_parameters,)
        After the last step.
    tested_parameters : ndarray (num_parameters,)
        Those that were tested.
    tested_epoch, best_epoch : int
        The epoch that they are from, and the one with the best validation score.
    num_steps, num_epochs : int
        That were done.
    num_skipped_steps : int
        How many of the steps had no update.
    best_accuracy : float or None
        On the validation split.
    examination : Examination or None
        Of the test split; None where there is none.
    """

    parameters: Array
    tested_parameters: Array
    tested_epoch: int
    best_epoch: int
    num_steps: int
    num_epochs: int
    num_skipped_steps: int
    best_accuracy: float | None
    examination: Examination | None


class Observer:
    """Does nothing; what a rank other than the root gets, and the base of the others.

    Attributes
    ----------
    error : Exception or None
        For which all ranks are to stop after their next step, with a checkpoint.
    """

    error: Exception | None = None

    @property
    def save_s(self) -> float:
        """What the slowest checkpoint so far has taken, until it was on disk."""
        return 0.0

    def reduction_made(self, name: str) -> None:
        """See how gradients will be added up."""

    def epoch_begins(self, epoch: int, num_steps: int, num_done: int) -> None:
        """See an epoch of `num_steps` steps begin, counted from 1, or go on after `num_done`."""

    def wants_checkpoint(self) -> bool:
        """Tell whether it is time for a checkpoint."""
        return False

    def traced(self, line: TraceLine) -> None:
        """See the digests of a step."""

    def step_done(self) -> None:
        """See a step done."""

    def epoch_done(self, result: EpochResult) -> None:
        """See an epoch done."""

    def checkpoint(self, snapshot: Snapshot) -> None:
        """See a state that is worth saving."""

    def finish_checkpoints(self) -> None:
        """Return when all of them are saved."""

    def how_to_go_on(self) -> str:
        """Tell how the training can go on from the last checkpoint, in words for people."""
        return ""

    def training_stopped(self) -> None:
        """See the training stop before its end; it can go on from the last checkpoint."""

    def training_done(self, outcome: Outcome) -> None:
        """See the training done and the test split examined."""


class Observers(Observer):
    """Passes everything on to several observers, in order.

    What one of them fails with does not lose the training: it is kept in `error`, so that all
    ranks stop, and raised when the checkpoint for it is on disk. Only what concerns checkpoints
    fails at once.
    """

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def reduction_made(self, name: str) -> None:
        """Pass it on."""
        self._tell(lambda observer: observer.reduction_made(name))

    def epoch_begins(self, epoch: int, num_steps: int, num_done: int) -> None:
        """Pass it on."""
        self._tell(lambda observer: observer.epoch_begins(epoch, num_steps, num_done))

    @property
    def save_s(self) -> float:
        """Ask them all."""
        return sum(observer.save_s for observer in self._observers)

    def wants_checkpoint(self) -> bool:
        """Ask them all."""
        return any(observer.wants_checkpoint() for observer in self._observers)

    def traced(self, line: TraceLine) -> None:
        """Pass it on."""
        self._tell(lambda observer: observer.traced(line))

    def step_done(self) -> None:
        """Pass it on."""
        self._tell(lambda observer: observer.step_done())

    def epoch_done(self, result: EpochResult) -> None:
        """Pass it on."""
        self._tell(lambda observer: observer.epoch_done(result))

    def checkpoint(self, snapshot: Snapshot) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.checkpoint(snapshot)

    def finish_checkpoints(self) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.finish_checkpoints()

    def training_stopped(self) -> None:
        """Pass it on, and raise what has been kept."""
        self.finish_checkpoints()
        self._tell(lambda observer: observer.training_stopped())
        self._raise_error()

    def training_done(self, outcome: Outcome) -> None:
        """Pass it on, and raise what has been kept."""
        self.finish_checkpoints()
        self._tell(lambda observer: observer.training_done(outcome))
        self._raise_error()

    def how_to_go_on(self) -> str:
        """Ask them all."""
        return "\n".join(filter(None, (one.how_to_go_on() for one in self._observers)))

    def _tell(self, tell: Callable[[Observer], None]) -> None:
        for observer in self._observers:
            try:
                tell(observer)
            except Exception as error:  # noqa: BLE001 - raised later
                self.error = self.error or error

    def _raise_error(self) -> None:
        if self.error is not None:
            # Where nobody listens any more, the error is told all the same.
            with suppress(OSError):
                click.echo(self.how_to_go_on(), err=True)
            raise self.error


class Console(Observer):
    """A progress bar within each epoch, on a terminal only, and a line after it.

    Parameters
    ----------
    width : int, optional
        Of a terminal that can't be seen from here, because a launcher stands between.
    """

    def __init__(self, width: int | None = None) -> None:
        self._width = width
        self._bar: tqdm | None = None

    def epoch_begins(self, epoch: int, num_steps: int, num_done: int) -> None:
        """Show a new bar, if there is a terminal."""
        if not (self._width or sys.stdout.isatty()):
            return
        from tqdm import tqdm  # noqa: PLC0415 - only where it is seen, for a quick start

        self._bar = tqdm(
            total=num_steps,
            initial=num_done,
            desc=f"Epoch {epoch}",
            unit="step",
            leave=False,
            # The stream of the epochs' lines: a launcher may reorder two streams.
            file=sys.stdout,
            ncols=self._width,
        )

    def step_done(self) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update()

    def training_stopped(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    def epoch_done(self, result: EpochResult) -> None:
        """Replace the bar by the epoch's line."""
        if self._bar is not None:
            self._bar.close()
        click.echo(epoch_line(result))


def epoch_line(result: EpochResult) -> str:
    """Return an epoch in one line, beginning with the validation score: `Epoch 3: 9020 / 10000`."""
    parts = [f"train loss {result.train_loss:.4f}", f"{result.samples_per_s:,.0f} samples/s"]
    if result.num_skipped_steps:
        parts.append(f"steps skipped so far: {result.num_skipped_steps}")
    if result.val_accuracy is None:
        return f"Epoch {result.epoch}: " + ", ".join(parts)
    return (
        f"Epoch {result.epoch}: {result.val_correct} / {result.val_total} "
        f"({result.val_accuracy:.2%}), validation loss {result.val_loss:.4f}, " + ", ".join(parts)
    )
