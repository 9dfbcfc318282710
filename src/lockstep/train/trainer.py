"""The training loop."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from lockstep.config import Config
from lockstep.data.batches import Batches, scaling_of
from lockstep.data.dataset_file import DatasetFile, DatasetInfo
from lockstep.data.memory import MemoryBudget
from lockstep.data.shards import Sharding
from lockstep.errors import SharedError
from lockstep.nn.initializers import initialize
from lockstep.nn.mlp import MLP, Workspace
from lockstep.optim.optimizers import OPTIMIZERS, Hyperparameters
from lockstep.optim.schedules import Schedule
from lockstep.parallel.communicator import Communicator, Reduction
from lockstep.parallel.tree import block
from lockstep.train.clock import Clock
from lockstep.train.evaluation import Evaluation, Score
from lockstep.train.gradient import NOTES_SHAPE, Backpropagation, Notes
from lockstep.train.observers import EpochResult, Observer, Outcome, Snapshot
from lockstep.train.replicas import check_replicas
from lockstep.train.requests import Requests
from lockstep.train.trace import TraceLine, batch_digest, layer_digests
from lockstep.train.update import Update


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


class Trainer:
    """One rank's part of a training; every rank runs the same loop.

    Parameters
    ----------
    config : Config
        Resolved: `virtual_ranks` is set (see `resolve`).
    dataset : DatasetFile
        Open.
    communicator : Communicator
        The ranks.
    observer : Observer
        Watches this rank.
    requests : Requests, optional
        What is asked of this rank from outside.

    Attributes
    ----------
    network : MLP
        What is trained.
    parameters : ndarray (num_parameters,)
        The replica.
    progress : Progress
        How far it is.
    """

    def __init__(
        self,
        config: Config,
        dataset: DatasetFile,
        communicator: Communicator,
        observer: Observer,
        requests: Requests | None = None,
    ) -> None:
        training, optimization = config.training, config.optimization
        self._config = config
        self._dataset = dataset
        self.network = network_of(config, dataset.info)
        self.progress = Progress()
        self._communicator = communicator
        self._observer = observer
        self._requests = requests or Requests()
        self._clock = Clock()
        self._scaling = scaling_of(dataset, config.network.dtype)

        num_rows = dataset.info.num_samples["train"]
        self._sharding = Sharding(num_rows, training.global_batch_size, training.virtual_ranks)
        self._budget = memory_budget(config, dataset)
        own = block(communicator.rank, communicator.world_size, training.virtual_ranks)
        self._batches = Batches(
            dataset, "train", self._sharding, own, self._scaling, self._budget
        )  # fmt: skip
        self._workspace = Workspace(self.network, *self._batches.shape, config.network.dtype)

        self.parameters = np.empty(self.network.num_parameters, config.network.dtype)
        initialize(config.network.initializer, self.network.layers(self.parameters), training.seed)
        self._best_parameters = self.parameters

        self._optimizer = OPTIMIZERS[optimization.optimizer](
            self.parameters, self.network.weight_slices, _hyperparameters(config)
        )
        self._learning_rate = _schedule(config, self._sharding.steps_per_epoch)
        self._is_stopping = False
        self._validation = self._evaluation("validation")
        # Read now, so that what is wrong with it is not found at the end.
        self._test = self._evaluation("test")

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from where another training of the same configuration was."""
        np.copyto(self.parameters, snapshot.parameters)
        for slot, values in snapshot.optimizer_state.items():
            np.copyto(self._optimizer.state[slot], values)
        self.progress = Progress.of_facts(snapshot.progress)
        self._clock.reset(self.progress.spent_s)
        if snapshot.best_parameters is not None:
            self._best_parameters = snapshot.best_parameters
        elif snapshot.is_best and self._config.training.tested_weights == "best":
            self._best_parameters = self.parameters.copy()

    @property
    def is_done(self) -> bool:
        """Whether all epochs are done, or the validation score has stopped improving."""
        if self._steps_of_epoch_done:
            # Told to be less patient, a resumed run finishes its epoch first.
            return False
        progress, training = self.progress, self._config.training
        is_stuck = training.patience and progress.epoch - progress.best_epoch >= training.patience
        return bool(is_stuck) or progress.epoch >= training.epochs

    def train(self) -> bool:
        """Train until the training is done, or was asked to stop; collective.

        Returns
        -------
        bool
            Whether it is done. Otherwise it can go on from the last checkpoint.
        """
        batches, workspace, clock = self._batches, self._workspace, self._clock
        observer, steps_per_epoch = self._observer, self._sharding.steps_per_epoch
        backpropagate = Backpropagation(self.network, self.parameters, workspace)
        self._update = self._make_update(backpropagate)
        self._save()
        for epoch in self._remaining_epochs():
            clock.reset(self.progress.spent_s)
            observer.epoch_begins(epoch, steps_per_epoch, self._steps_of_epoch_done)
            batches.shuffle(self._config.training.seed, epoch)
            for step in self._remaining_steps():
                batches.fill(step, workspace.rows, workspace.labels)
                clock.lap("data")
                num_samples = self._sharding.num_samples(step)
                backpropagate(self._reduction, num_samples, batches.used, **self._wishes())
                clock.lap("compute")
                notes = self._update(self.progress.step, clock)
                self._finish_step(epoch, step, notes)
            if not self._steps_of_epoch_done:
                self._finish_epoch(epoch)
            self._save()
        self._reduction.close()
        if self.is_done:
            observer.training_done(self._outcome())
        else:
            observer.training_stopped()
        return self.is_done

    def _remaining_epochs(self) -> Iterator[int]:
        while not (self.is_done or self._is_stopping):
            yield self.progress.epoch + 1

    def _remaining_steps(self) -> Iterator[int]:
        for step in range(self._steps_of_epoch_done, self._sharding.steps_per_epoch):
            if self._is_stopping:
                return
            yield step

    @property
    def _steps_of_epoch_done(self) -> int:
        """Steps of the epoch that is under way; none between two epochs."""
        return self.progress.step % self._sharding.steps_per_epoch

    def _make_update(self, backpropagate: Backpropagation) -> Update:
        """Set up what all ranks do together; collective, so no part of the constructor."""

        def rehearse(reduction: Reduction) -> None:
            backpropagate(reduction, self._sharding.num_samples(0), None)
            reduction.reduce_scatter()
            reduction.all_gather()

        config = self._config
        self._reduction = self._communicator.reduction(
            config.training.reduction,
            config.training.virtual_ranks,
            [*self.network.layer_shapes, NOTES_SHAPE],
            config.network.dtype,
            rehearse,
        )
        self._observer.reduction_made(self._reduction.name)
        return Update(
            config,
            self.network,
            self.parameters,
            self._optimizer,
            self._learning_rate,
            self._reduction,
            self._communicator,
        )

    def _wishes(self) -> dict[str, bool]:
        """Return what this rank asks of all, to be told with the gradient."""
        requests, next_step = self._requests, self.progress.step + 1
        return {
            "save": requests.take_save() or self._observer.wants_checkpoint(),
            "stop": requests.stop or next_step == requests.stop_after,
        }

    def _finish_step(self, epoch: int, step_of_epoch: int, notes: Notes) -> None:
        """Check and tell the step, and save a checkpoint where one is due; collective."""
        progress, training = self.progress, self._config.training
        progress.step += 1
        progress.loss_sum += notes.loss
        self._is_stopping = notes.stop
        if not math.isfinite(notes.loss):
            raise self._diverged(f"at step {progress.step} (epoch {epoch})", notes.loss)
        if _is_due(progress.step, training.replica_check_every):
            self._check_replicas()
        if training.trace:
            self._trace(epoch, step_of_epoch)
        self._observer.step_done()
        is_due = notes.save or _is_due(progress.step, training.checkpoint_every_steps)
        if is_due and not self._is_stopping and self._steps_of_epoch_done:
            self._save()
        self._clock.lap()

    def _trace(self, epoch: int, step_of_epoch: int) -> None:
        line = TraceLine(
            self.progress.step,
            epoch,
            batch_digest(self._communicator, self._batches, step_of_epoch),
            self._update.gradient_digests,
            layer_digests(self.network, self.parameters),
        )
        self._observer.traced(line)

    def _save(self) -> None:
        """Hand the state to the observer for a checkpoint; collective."""
        if self._config.training.replica_check_every:
            self._check_replicas()
        if not np.isfinite(self.parameters).all():
            raise self._diverged(f"after step {self.progress.step}", math.nan)
        self._update.collect_state()
        self.progress.spent_s = self._clock.spent if self._steps_of_epoch_done else {}
        best = self._best_parameters
        is_best = self.progress.best_step == self.progress.step
        snapshot = Snapshot(
            self.parameters,
            self._optimizer.state,
            None if best is self.parameters or is_best else best,
            vars(self.progress),
            is_best and self.progress.step > 0,
        )
        self._observer.checkpoint(snapshot)

    def _check_replicas(self) -> None:
        check_replicas(self._communicator, self.network, self.parameters, self.progress.step)

    def _finish_epoch(self, epoch: int) -> None:
        """Evaluate, take note of the best parameters, tell the observer; collective."""
        progress, clock = self.progress, self._clock
        progress.epoch = epoch
        train_s = clock.elapsed_s
        train_loss = progress.loss_sum / self._sharding.num_rows
        progress.loss_sum = 0.0
        score = self._validation.score(self.parameters) if self._validation else None
        if score and not math.isfinite(score.loss):
            raise self._diverged(f"in epoch {epoch}", score.loss)
        clock.lap("evaluation")
        if progress.is_best(score) and self._config.training.tested_weights == "best":
            self._best_parameters = self.parameters.copy()
        result = EpochResult(
            epoch=progress.epoch,
            step=progress.step,
            train_loss=train_loss,
            val_loss=score.loss if score else None,
            val_accuracy=score.accuracy if score else None,
            val_correct=score.correct if score else None,
            val_total=score.total if score else None,
            lr=self._learning_rate(progress.step - 1),
            epoch_s=clock.elapsed_s,
            samples_per_s=self._sharding.num_rows / train_s,
            **{f"{phase}_s": seconds for phase, seconds in clock.seconds.items()},
        )
        self._observer.epoch_done(result)

    def _evaluation(self, split: str) -> Evaluation | None:
        if not self._dataset.info.num_samples[split]:
            return None
        return Evaluation(
            self.network, self._dataset, split, self._scaling, self._communicator,
            self._config.training.virtual_ranks, self._budget,
        )  # fmt: skip

    def _outcome(self) -> Outcome:
        """Examine the test split, once; collective."""
        progress = self.progress
        is_best_tested = self._config.training.tested_weights == "best"
        tested_parameters = self._best_parameters if is_best_tested else self.parameters
        return Outcome(
            parameters=self.parameters,
            tested_parameters=tested_parameters,
            tested_epoch=progress.best_epoch if is_best_tested else progress.epoch,
            best_epoch=progress.best_epoch,
            num_steps=progress.step,
            num_epochs=progress.epoch,
            best_accuracy=(
                progress.best_correct / self._validation.total if self._validation else None
            ),
            examination=self._test.examine(tested_parameters) if self._test else None,
        )

    def _diverged(self, when: str, loss: float) -> SharedError:
        """Return the error of all ranks; they see the same numbers, so all raise it."""
        return SharedError(
            f"The training has diverged {when}: the loss is {loss}, and losses or weights are "
            "infinite or not numbers. Try a smaller --learning-rate, or --clip-norm 1; features of "
            "large numbers want converting with --standardize."
        )


def _is_due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def network_of(config: Config, info: DatasetInfo) -> MLP:
    """Return the configured network with the data set's inputs and classes."""
    widths = (info.num_features, *config.network.hidden_widths, info.num_classes)
    return MLP(widths, config.network.activation, config.network.loss)


def memory_budget(config: Config, dataset: DatasetFile) -> MemoryBudget:
    """Return what a rank may use for the rows of a data set."""
    return MemoryBudget(config.data.memory_budget_mb, dataset.info, config.network.dtype)


def _hyperparameters(config: Config) -> Hyperparameters:
    optimization = config.optimization
    return Hyperparameters(
        momentum=optimization.momentum,
        beta1=optimization.beta1,
        beta2=optimization.beta2,
        epsilon=optimization.epsilon,
        weight_decay=optimization.weight_decay,
    )


def _schedule(config: Config, steps_per_epoch: int) -> Schedule:
    optimization = config.optimization
    return Schedule(
        kind=optimization.schedule,
        learning_rate=optimization.learning_rate,
        num_steps=config.training.epochs * steps_per_epoch,
        warmup_steps=round(optimization.warmup_epochs * steps_per_epoch),
        decay_steps=max(1, round(optimization.decay_epochs * steps_per_epoch)),
        decay_factor=optimization.decay_factor,
        final_learning_rate=optimization.final_learning_rate,
    )
