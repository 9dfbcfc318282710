"""The training loop."""

import math
from collections.abc import Iterator

import numpy as np

from lockstep.arrays import Array
from lockstep.config import Config
from lockstep.data.augmentation import Augmenter
from lockstep.data.batches import Batches, scaling_of
from lockstep.data.dataset_file import DatasetFile
from lockstep.nn.initializers import initialize
from lockstep.nn.mlp import Workspace
from lockstep.optim.optimizers import OPTIMIZERS
from lockstep.parallel.communicator import Communicator, Doing, Reduction
from lockstep.parallel.tree import block
from lockstep.train.averaging import Averaging
from lockstep.train.blueprint import (
    dropout_of,
    hyperparameters_of,
    memory_budget,
    network_of,
    schedule_of,
    sharding_of,
    strengths_of,
)
from lockstep.train.clock import STEP_PHASES, Clock
from lockstep.train.evaluation import Evaluation
from lockstep.train.gradient import Backpropagation, Notes, reduced_shapes
from lockstep.train.nonfinite import DivergedError, find_bad_layers, find_origin
from lockstep.train.observers import EpochResult, Observer, Outcome, Snapshot
from lockstep.train.progress import Progress
from lockstep.train.replicas import check_replicas
from lockstep.train.requests import Requests
from lockstep.train.steps import Part, Steps
from lockstep.train.trace import TraceLine, batch_digest, layer_digests
from lockstep.train.update import Update


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
    clock : Clock
        What it is doing, and where the time went.
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
        self.clock = Clock()
        self._scaling = scaling_of(dataset, config.network.dtype)

        self._sharding = sharding_of(config, dataset.info)
        self._steps = Steps(self._sharding, training.accumulation)
        self._budget = memory_budget(config, dataset)
        own = block(communicator.rank, communicator.world_size, training.virtual_ranks)
        self._batches = Batches(
            dataset, "train", self._sharding, own, self._scaling, self._budget
        )  # fmt: skip
        self._augment = Augmenter(
            strengths_of(config),
            dataset.info,
            self._scaling,
            own,
            self._batches.shape[1],
            training.seed,
        )
        dropout = dropout_of(config, self.network, own, self._batches.shape[1])
        self._workspace = Workspace(
            self.network,
            *self._batches.shape,
            config.network.dtype,
            dropout.masks if dropout else (),
            config.regularization.label_smoothing,
        )

        self.parameters = np.empty(self.network.num_parameters, config.network.dtype)
        initialize(config.network.initializer, self.network, self.parameters, training.seed)

        self._backpropagate = Backpropagation(
            self.network, self.parameters, self._workspace, dropout
        )
        self._optimizer = OPTIMIZERS[optimization.optimizer](
            self.parameters[: self.network.num_trainable],
            self.network.weight_slices,
            hyperparameters_of(config),
        )
        self._learning_rate = schedule_of(config, self._steps.per_epoch)
        self._averaging: Averaging | None = None
        if optimization.averaging != "none":
            self._averaging = Averaging(config, self.parameters, self._steps.per_epoch)
        self._best_parameters = self._evaluated_parameters
        self._is_stopping = False
        self._saved_step = 0
        self._validation = self._evaluation("validation")
        # Read now, so that what is wrong with it is not found at the end.
        self._test = self._evaluation("test") if self._requests.tests else None

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from where another training of the same configuration was."""
        np.copyto(self.parameters, snapshot.parameters)
        for slot, values in snapshot.optimizer_state.items():
            np.copyto(self._optimizer.state[slot], values)
        if self._averaging is not None and snapshot.average is not None:
            np.copyto(self._averaging.average, snapshot.average)
        self.progress = Progress.of_facts(snapshot.progress)
        self.clock.reset(self.progress.spent_s)
        if snapshot.best_parameters is not None:
            self._best_parameters = snapshot.best_parameters
        elif snapshot.is_best and self._config.training.tested_weights == "best":
            self._best_parameters = self._evaluated_parameters.copy()

    @property
    def _evaluated_parameters(self) -> Array:
        """The weights that are evaluated and tested: their average, where there is one."""
        return self.parameters if self._averaging is None else self._averaging.average

    def snapshot(self) -> Snapshot:
        """Return the state, which is no copy.

        The optimizer's part of it is complete where `Update.collect_state` has completed it, or
        where every rank makes the whole update.
        """
        self.progress.spent_s = self.clock.spent if self._steps_of_epoch_done else {}
        best = self._best_parameters
        is_best = self.progress.best_step == self.progress.step
        return Snapshot(
            self.parameters,
            self._optimizer.state,
            self._averaging.average if self._averaging else None,
            None if best is self._evaluated_parameters or is_best else best,
            vars(self.progress),
            is_best and self.progress.step > 0,
        )

    def doing(self) -> Doing:
        """Return what this rank is at, for its watchdog."""
        phase = self.clock.phase
        return Doing(
            self.progress.step,
            phase,
            is_step=phase in STEP_PHASES,
            is_waiting=phase == "reduce",
        )

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
        batches, clock = self._batches, self.clock
        observer, steps_per_epoch = self._observer, self._steps.per_epoch
        backpropagate = self._backpropagate
        self._update = self._make_update()
        self._save()
        for epoch in self._remaining_epochs():
            clock.enter("data")
            clock.reset(self.progress.spent_s)
            observer.epoch_begins(epoch, steps_per_epoch, self._steps_of_epoch_done)
            batches.shuffle(self._config.training.seed, epoch)
            for step in self._remaining_steps():
                num_samples, wishes = self._steps.num_samples(step), self._wishes()
                for part in self._steps.parts(epoch, step):
                    clock.enter("data")
                    self._fill(part)
                    clock.enter("compute")
                    backpropagate(self._reduction, num_samples, batches.used, part, **wishes)
                notes = self._update(self.progress.step, clock)
                self._average()
                self._finish_step(epoch, step, notes)
            if self._steps_of_epoch_done == steps_per_epoch:
                self._finish_epoch(epoch)
            self._save()
        self._reduction.close()
        if self.is_done and self._requests.tests:
            clock.enter("testing")
            observer.training_done(self._outcome())
        else:
            observer.training_stopped()
        return self.is_done

    def close(self) -> None:
        """Give back what the ranks share, where `train` did not come to it; collective."""
        self._reduction.close()

    def _fill(self, part: Part) -> None:
        """Fill the workspace with the samples of a part of a step."""
        workspace = self._workspace
        self._batches.fill(part.of_epoch, workspace.rows, workspace.labels)
        self._augment(part.number, workspace.rows)

    def _average(self) -> None:
        """Take the weights of the step that has been taken into their average."""
        if self._averaging is not None:
            self._averaging(self.progress.step + 1)

    def _remaining_epochs(self) -> Iterator[int]:
        while not (self.is_done or self._is_stopping):
            yield self.progress.epoch + 1

    def _remaining_steps(self) -> Iterator[int]:
        for step in range(self._steps_of_epoch_done, self._steps.per_epoch):
            if self._is_stopping:
                return
            yield step

    @property
    def _steps_of_epoch_done(self) -> int:
        """Steps of the epoch that is under way; all of them, until it is evaluated."""
        return self.progress.step - self.progress.epoch * self._steps.per_epoch

    def _make_update(self) -> Update:
        """Set up what all ranks do together; collective, so no part of the constructor."""

        def rehearse(reduction: Reduction) -> None:
            part = Part(number=0, of_epoch=0)
            self._backpropagate(reduction, self._steps.num_samples(0), None, part)
            reduction.reduce_scatter()
            reduction.all_gather()

        self.clock.enter("setting up the reduction")
        config = self._config
        self._reduction = self._communicator.reduction(
            config.training.reduction,
            config.training.virtual_ranks,
            reduced_shapes(self.network),
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
        requests, observer = self._requests, self._observer
        num_steps_left = self._steps.per_epoch - self._steps_of_epoch_done
        return {
            "save": requests.take_save() or observer.wants_checkpoint(),
            "stop": observer.error is not None
            or requests.wants_stop(self.progress.step + 1, num_steps_left, observer.save_s),
        }

    def _finish_step(self, epoch: int, step_of_epoch: int, notes: Notes) -> None:
        """Check and tell the step, and save a checkpoint where one is due; collective."""
        self.clock.enter("finishing the step")
        progress, training = self.progress, self._config.training
        progress.step += 1
        self._is_stopping = notes.stop
        if notes.is_finite:
            progress.loss_sum += notes.loss
        else:
            self._skip(epoch, step_of_epoch, notes)
        if _is_due(progress.step, training.replica_check_every):
            self._check_parameters()
        if training.trace:
            self._trace(epoch, step_of_epoch)
        self._observer.step_done()
        is_due = notes.save or _is_due(progress.step, training.checkpoint_every_steps)
        # One is saved anyway when the training stops or the epoch is finished.
        if is_due and not self._is_stopping and step_of_epoch + 1 < self._steps.per_epoch:
            self._save()

    def _skip(self, epoch: int, step_of_epoch: int, notes: Notes) -> None:
        """Count a step that is not finite, or stop the training for it; collective."""
        progress, num_samples = self.progress, self._steps.num_samples(step_of_epoch)
        progress.num_skipped_steps += 1
        progress.num_skipped_samples += num_samples
        is_skipping = self._config.training.on_nonfinite == "skip"
        if is_skipping and progress.num_skipped_samples < self._sharding.num_rows:
            return
        stages = self._stages(epoch, step_of_epoch)
        origin = find_origin(self._communicator, self._batches.virtual_ranks, stages)
        when = f"at step {progress.step} (epoch {epoch}{', every step skipped' * is_skipping})"
        raise DivergedError(
            f"{when}: the loss is {notes.loss / num_samples:.4g}, and what is infinite or not a "
            f"number begins in {origin}",
            self._saved_step,
            can_skip=not is_skipping,
        )

    def _stages(self, epoch: int, step_of_epoch: int) -> Iterator[tuple[str, Array]]:
        num_samples = self._steps.num_samples(step_of_epoch)
        for part in self._steps.parts(epoch, step_of_epoch):
            self._fill(part)
            yield from self._backpropagate.stages(
                self._reduction, num_samples, self._batches.used, part
            )

    def _trace(self, epoch: int, step_of_epoch: int) -> None:
        parts = self._steps.parts(epoch, step_of_epoch)
        line = TraceLine(
            self.progress.step,
            epoch,
            batch_digest(self._communicator, self._batches, [part.of_epoch for part in parts]),
            self._update.gradient_digests,
            layer_digests(self.network, self.parameters),
        )
        self._observer.traced(line)

    def _save(self) -> None:
        """Hand the state to the observer for a checkpoint; collective."""
        self.clock.enter("saving")
        self._check_parameters()
        self._saved_step = self.progress.step
        self._update.collect_state()
        self._observer.checkpoint(self.snapshot())

    def _check_parameters(self) -> None:
        """See that the replicas are equal, where that is asked for, and finite; collective."""
        communicator, network, step = self._communicator, self.network, self.progress.step
        if self._config.training.replica_check_every:
            check_replicas(communicator, network, self.parameters, step)
            if self._averaging is not None:
                check_replicas(communicator, network, self._averaging.average, step)
        bad_layers = find_bad_layers(communicator, network, self.parameters)
        if bad_layers:
            raise DivergedError(
                f"at step {step}: {bad_layers} are infinite or not numbers since", self._saved_step
            )

    def _finish_epoch(self, epoch: int) -> None:
        """Evaluate, take note of the best parameters, tell the observer; collective."""
        progress, clock = self.progress, self.clock
        clock.enter("evaluation")
        train_s = clock.elapsed_s
        score = self._validation.score(self._evaluated_parameters) if self._validation else None
        if score and not math.isfinite(score.loss):
            self._check_parameters()
            raise DivergedError(
                f"at step {progress.step} (epoch {epoch}): the validation loss is {score.loss}",
                self._saved_step,
            )
        clock.enter("finishing the epoch")
        num_samples = self._sharding.num_rows - progress.num_skipped_samples
        result = EpochResult(
            epoch=epoch,
            step=progress.step,
            num_skipped_steps=progress.num_skipped_steps,
            train_loss=progress.loss_sum / num_samples,
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
        has_failed = np.array([self._observer.error is not None], np.int64)
        if self._communicator.sum_counts(has_failed)[0]:
            # Not finished: whoever goes on evaluates it once more, and tells of it.
            self._is_stopping = True
            return
        progress.epoch, progress.loss_sum, progress.num_skipped_samples = epoch, 0.0, 0
        if progress.is_best(score) and self._config.training.tested_weights == "best":
            self._best_parameters = self._evaluated_parameters.copy()

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
        last, best = self._evaluated_parameters, self._best_parameters
        tested_parameters = best if is_best_tested else last
        return Outcome(
            parameters=self.parameters,
            tested_parameters=tested_parameters,
            tested_epoch=progress.best_epoch if is_best_tested else progress.epoch,
            best_epoch=progress.best_epoch,
            num_steps=progress.step,
            num_epochs=progress.epoch,
            num_skipped_steps=progress.num_skipped_steps,
            best_accuracy=(
                progress.best_correct / self._validation.total if self._validation else None
            ),
            examination=self._test.examine(tested_parameters) if self._test else None,
        )


def _is_due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
