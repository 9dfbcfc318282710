"""The training loop."""

import math
from dataclasses import dataclass

import numpy as np

from lockstep.arrays import Array
from lockstep.config import Config
from lockstep.data.batches import Batches, scaling_of
from lockstep.data.dataset_file import DatasetFile, DatasetInfo
from lockstep.data.shards import Sharding
from lockstep.errors import SharedError
from lockstep.nn.initializers import initialize
from lockstep.nn.mlp import MLP, Workspace
from lockstep.optim.gradients import add_l2, clip_norm
from lockstep.optim.optimizers import OPTIMIZERS, Hyperparameters
from lockstep.optim.schedules import Schedule
from lockstep.parallel.communicator import Communicator, Reduction
from lockstep.parallel.tree import block, tree_sum
from lockstep.train.clock import Clock
from lockstep.train.evaluation import Evaluation, Score
from lockstep.train.gradient import Backpropagation
from lockstep.train.observers import EpochResult, Observer, Outcome, Snapshot


@dataclass
class Progress:
    """How far a training has come, and its best epoch so far."""

    step: int = 0
    epoch: int = 0
    best_epoch: int = 0
    best_correct: int = -1
    best_loss: float | None = None

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
        self.best_epoch = self.epoch
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
    ) -> None:
        training, optimization = config.training, config.optimization
        self._config = config
        self._dataset = dataset
        self.network = network_of(config, dataset.info)
        self.progress = Progress()
        self._communicator = communicator
        self._observer = observer
        self._clock = Clock()
        self._scaling = scaling_of(dataset, config.network.dtype)

        num_rows = dataset.info.num_samples["train"]
        self._sharding = Sharding(num_rows, training.global_batch_size, training.virtual_ranks)
        own = block(communicator.rank, communicator.world_size, training.virtual_ranks)
        self._batches = Batches(dataset, "train", self._sharding, own, self._scaling)
        self._workspace = Workspace(self.network, *self._batches.shape, config.network.dtype)

        self.parameters = np.empty(self.network.num_parameters, config.network.dtype)
        initialize(config.network.initializer, self.network.layers(self.parameters), training.seed)
        self._tested_parameters, self._tested_epoch = self.parameters.copy(), 0

        self._optimizer = OPTIMIZERS[optimization.optimizer](
            self.parameters, self.network.weight_slices, _hyperparameters(config)
        )
        self._learning_rate = _schedule(config, self._sharding.steps_per_epoch)
        self._gradient_buffer = np.empty_like(self.parameters)
        self._loss_sums = np.zeros(len(own))
        self._validation = self._evaluation("validation")
        # Read now, so that what is wrong with it is not found at the end.
        self._test = self._evaluation("test")

    def train(self) -> None:
        """Train to the last epoch, or until the validation score stops improving."""
        batches, workspace, clock = self._batches, self._workspace, self._clock
        training, observer = self._config.training, self._observer
        reduction = self._make_reduction()
        backpropagate = Backpropagation(self.network, self.parameters, workspace, reduction)
        for epoch in range(1, training.epochs + 1):
            clock.reset()
            observer.epoch_begins(epoch, self._sharding.steps_per_epoch)
            batches.shuffle(training.seed, epoch)
            for step in batches:
                batches.fill(step, workspace.inputs, workspace.labels)
                clock.lap("data")
                backpropagate(self._sharding.num_samples(step), batches.used)
                self._add_losses()
                clock.lap("compute")
                gradient = reduction.total()
                clock.lap("reduce")
                self._update(gradient)
                clock.lap("update")
                observer.step_done()
                clock.lap()
            self._finish_epoch(epoch)
            if training.patience and epoch - self.progress.best_epoch >= training.patience:
                break
        observer.training_done(self._outcome())

    def _make_reduction(self) -> Reduction:
        """Set up the sum over all ranks; collective, so no part of the constructor."""
        training, dtype = self._config.training, self._config.network.dtype
        return self._communicator.reduction(
            training.reduction, training.virtual_ranks, self.network.layer_shapes, dtype
        )

    def _add_losses(self) -> None:
        """Add the batch's losses to the sums of their virtual ranks."""
        losses = self._workspace.losses
        if self._batches.used is not None:
            losses = losses * self._batches.used
        self._loss_sums += np.add.reduce(losses, axis=1)

    def _update(self, gradient: Array) -> None:
        """Let the optimizer take the step."""
        step = self.progress.step
        self._optimizer.update(
            self.parameters, self._regularized(gradient), self._learning_rate(step), step
        )
        self.progress.step = step + 1

    def _regularized(self, gradient: Array) -> Array:
        """Return the gradient, clipped and with the penalty's part where asked for."""
        optimization = self._config.optimization
        if not optimization.clip_norm and not optimization.l2:
            return gradient
        # A copy, because the reduction's sum may be shared with other ranks.
        np.copyto(self._gradient_buffer, gradient)
        if optimization.clip_norm:
            clip_norm(self._gradient_buffer, optimization.clip_norm)
        if optimization.l2:
            weights = self.network.weight_slices
            add_l2(self._gradient_buffer, self.parameters, weights, optimization.l2)
        return self._gradient_buffer

    def _finish_epoch(self, epoch: int) -> None:
        """Evaluate, take note of the best weights, tell the observer; collective."""
        progress, clock = self.progress, self._clock
        progress.epoch = epoch
        train_s = clock.elapsed_s
        train_loss = self._mean_train_loss()
        score = self._validation.score(self.parameters) if self._validation else None
        self._check_finite(train_loss, score)
        clock.lap("evaluation")
        is_best = progress.is_best(score)
        if is_best or self._config.training.tested_weights == "last":
            np.copyto(self._tested_parameters, self.parameters)
            self._tested_epoch = progress.epoch
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
        snapshot = Snapshot(self.parameters, self._optimizer.state, vars(progress), is_best)
        self._observer.epoch_done(result, snapshot)

    def _evaluation(self, split: str) -> Evaluation | None:
        if not self._dataset.info.num_samples[split]:
            return None
        return Evaluation(
            self.network, self._dataset, split, self._scaling, self._communicator,
            self._config.training.virtual_ranks,
        )  # fmt: skip

    def _outcome(self) -> Outcome:
        """Examine the test split, once; collective."""
        progress = self.progress
        return Outcome(
            parameters=self.parameters,
            tested_parameters=self._tested_parameters,
            tested_epoch=self._tested_epoch,
            best_epoch=progress.best_epoch,
            num_steps=progress.step,
            num_epochs=progress.epoch,
            best_accuracy=(
                progress.best_correct / self._validation.total if self._validation else None
            ),
            examination=self._test.examine(self._tested_parameters) if self._test else None,
        )

    def _mean_train_loss(self) -> float:
        """Return the epoch's mean loss; collective."""
        total = tree_sum(self._communicator.gather_rows(self._loss_sums))
        self._loss_sums[:] = 0.0
        return float(total) / self._sharding.num_rows

    def _check_finite(self, train_loss: float, score: Score | None) -> None:
        """Stop a diverged training, on all ranks alike since all see the same numbers."""
        losses = [train_loss, score.loss] if score else [train_loss]
        if not (all(map(math.isfinite, losses)) and np.isfinite(self.parameters).all()):
            raise SharedError(
                f"In epoch {self.progress.epoch} the training has diverged: the training loss is "
                f"{train_loss}, and losses or weights are infinite or not numbers. Try a smaller "
                "--learning-rate, or --clip-norm 1; features of large numbers want converting "
                "with --standardize."
            )


def network_of(config: Config, info: DatasetInfo) -> MLP:
    """Return the configured network with the data set's inputs and classes."""
    widths = (info.num_features, *config.network.hidden_widths, info.num_classes)
    return MLP(widths, config.network.activation, config.network.loss)


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
