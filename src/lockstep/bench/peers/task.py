"""What all contestants train: the same network from the same weights on the same data."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockstep.arrays import Array
from lockstep.config import Config
from lockstep.data.batches import scaling_of
from lockstep.data.dataset_file import DatasetFile
from lockstep.nn.initializers import initialize
from lockstep.nn.mlp import MLP
from lockstep.optim.schedules import Schedule
from lockstep.train.blueprint import network_of


@dataclass(frozen=True)
class Samples:
    """A split in memory, as other libraries like it.

    Parameters
    ----------
    x : ndarray of float32 (num_rows, num_features)
        Scaled.
    y : ndarray of int64 (num_rows,)
        Class indices.
    """

    x: NDArray[np.float32]
    y: NDArray[np.int64]

    @classmethod
    def read(cls, dataset: DatasetFile, split: str) -> "Samples":
        """Read all of a split."""
        stored, labels = dataset.read(split, 0, dataset.info.num_samples[split])
        x = np.empty(stored.shape, np.float32)
        scaling_of(dataset, "float32").apply(stored, x)
        return cls(x, labels.astype(np.int64))


@dataclass(frozen=True)
class Task:
    """What a peer is to train.

    Parameters
    ----------
    config : Config
        The training as Lockstep would do it: ReLU or sigmoid, cross-entropy, SGD at a constant
        learning rate or AdamW at a constant or cosine one, float32.
    network : MLP
        Its network.
    samples : Samples
        To train on.
    next_order : callable
        Returns all row numbers, ndarray of int64 (num_rows,), in the order of the next epoch.
    """

    config: Config
    network: MLP
    samples: Samples
    next_order: Callable[[], NDArray[np.int64]]

    @classmethod
    def of(cls, config: Config, dataset: DatasetFile, samples: Samples) -> "Task":
        """Return the task of a configuration, in random orders drawn with its seed."""
        generator = np.random.default_rng(config.training.seed)
        return cls(
            config,
            network_of(config, dataset.info),
            samples,
            lambda: generator.permutation(len(samples.y)),
        )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches of the rows; what is left over sits the epoch out."""
        return len(self.samples.y) // self.config.training.global_batch_size

    @property
    def schedule(self) -> Schedule:
        """The learning rate at every step."""
        optimization = self.config.optimization
        num_steps = self.config.training.epochs * self.steps_per_epoch
        return Schedule(optimization.schedule, optimization.learning_rate, num_steps)

    def initial_layers(self) -> list[Array]:
        """Return the weights of each layer with its biases as the last row; a new copy."""
        parameters = np.empty(self.network.num_parameters, np.float32)
        initialize(
            self.config.network.initializer, self.network, parameters, self.config.training.seed
        )
        return self.network.layers(parameters)

    def batches(self, num_steps: int) -> Iterator[NDArray[np.int64]]:
        """Shuffle the rows as often as so many steps need it.

        Parameters
        ----------
        num_steps : int
            Of all epochs together.

        Yields
        ------
        ndarray of int64 (num_steps_of_this_epoch, global_batch_size)
            The row numbers of each step's batch.
        """
        while num_steps > 0:
            now = min(num_steps, self.steps_per_epoch)
            num_rows = now * self.config.training.global_batch_size
            yield self.next_order()[:num_rows].reshape(now, -1)
            num_steps -= now
