"""Evaluation of a split by all ranks together, with the same result on any number of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockstep.arrays import Array
from lockstep.data.batches import Batches, Scaling
from lockstep.data.dataset_file import DatasetFile
from lockstep.data.shards import Sharding
from lockstep.nn.mlp import MLP, Workspace
from lockstep.parallel.communicator import Communicator
from lockstep.parallel.tree import block, tree_sum

# Samples that a virtual rank evaluates at a time: enough for fast matrix products.
_BLOCK_SIZE = 256
_NUM_MISTAKES = 36


@dataclass(frozen=True)
class Score:
    """How well a split was classified.

    Parameters
    ----------
    loss : float
        Mean over the samples.
    correct, total : int
        Samples classified correctly, and all samples.
    """

    loss: float
    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """Fraction classified correctly."""
        return self.correct / self.total


@dataclass(frozen=True)
class Mistakes:
    """The samples that were wrongly classified with the greatest confidence, worst first.

    Parameters
    ----------
    rows : ndarray of int64 (num_mistakes,)
        Row numbers in the split.
    labels, predicted : ndarray of int64 (num_mistakes,)
        Class indices.
    probability, true_probability : ndarray of float64 (num_mistakes,)
        The network's outputs for the predicted and for the true class.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probability: NDArray[np.float64]
    true_probability: NDArray[np.float64]


@dataclass(frozen=True)
class Examination:
    """A split's score with all that the report tells of it.

    Parameters
    ----------
    score : Score
        The headline.
    confusion : ndarray of int64 (num_classes, num_classes)
        Samples by true class (rows) and predicted class (columns).
    mistakes : Mistakes
        The worst of them.
    """

    score: Score
    confusion: NDArray[np.int64]
    mistakes: Mistakes


class Evaluation:
    """Evaluates one split.

    The split's rows are divided over the virtual ranks and taken in blocks of a fixed shape, so
    the outputs, and the losses to the last bit, do not depend on the number of ranks.

    Parameters
    ----------
    network : MLP
        What to evaluate.
    dataset : DatasetFile
        Open; this rank's rows are read at once.
    split : str
        A split that isn't empty.
    scaling : Scaling
        Of the inputs, in the parameters' dtype.
    communicator : Communicator
        All of its ranks must evaluate together.
    num_virtual_ranks : int
        V.
    """

    def __init__(
        self,
        network: MLP,
        dataset: DatasetFile,
        split: str,
        scaling: Scaling,
        communicator: Communicator,
        num_virtual_ranks: int,
    ) -> None:
        self._network = network
        self._communicator = communicator
        self.total = dataset.info.num_samples[split]
        block_size = min(_BLOCK_SIZE, -(-self.total // num_virtual_ranks))
        sharding = Sharding(self.total, num_virtual_ranks * block_size, num_virtual_ranks)
        own = block(communicator.rank, communicator.world_size, num_virtual_ranks)
        self._batches = Batches(dataset, split, sharding, own, scaling)
        self._batches.in_stored_order()
        self._workspace = Workspace(network, *self._batches.shape, scaling.scale.dtype)

    def score(self, parameters: Array) -> Score:
        """Return loss and correct classifications; collective."""
        losses = np.zeros(len(self._batches.virtual_ranks))
        correct = np.zeros(1, np.int64)
        workspace = self._workspace
        for _, used in self._blocks(parameters):
            losses += np.add.reduce(workspace.losses * used, axis=1)
            is_correct = workspace.outputs.argmax(axis=1) == workspace.labels
            correct += np.count_nonzero(is_correct & used)
        return self._score(losses, correct)

    def examine(self, parameters: Array) -> Examination:
        """Return score, confusion matrix and worst mistakes; collective."""
        num_classes = self._network.widths[-1]
        losses = np.zeros(len(self._batches.virtual_ranks))
        confusion = np.zeros((num_classes, num_classes), np.int64)
        mistakes = np.empty((0, 5))
        workspace = self._workspace
        for rows, used in self._blocks(parameters):
            losses += np.add.reduce(workspace.losses * used, axis=1)
            predicted = workspace.outputs.argmax(axis=1)
            np.add.at(confusion, (workspace.labels[used], predicted[used]), 1)
            wrong = used & (predicted != workspace.labels)
            mistakes = _worst(np.concatenate([mistakes, self._table(rows, predicted, wrong)]))
        confusion = self._communicator.sum_counts(confusion)
        worst = _worst(self._communicator.gather_rows(mistakes))
        correct = np.array([np.trace(confusion) if self._communicator.rank == 0 else 0])
        return Examination(
            self._score(losses, correct),
            confusion,
            Mistakes(
                worst[:, 0].astype(np.int64),
                worst[:, 1].astype(np.int64),
                worst[:, 2].astype(np.int64),
                worst[:, 3],
                worst[:, 4],
            ),
        )

    def _blocks(self, parameters: Array) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
        """Evaluate block by block: yield each one's row numbers and which of them count."""
        layers = self._network.layers(parameters)
        all_used = np.ones(self._batches.shape, np.bool_)
        for step in self._batches:
            self._batches.fill(step, self._workspace.inputs, self._workspace.labels)
            self._workspace.evaluate(layers)
            used = self._batches.used
            yield self._batches.rows(step), all_used if used is None else used

    def _score(self, losses: NDArray[np.float64], correct: NDArray[np.int64]) -> Score:
        loss = tree_sum(self._communicator.gather_rows(losses)) / self.total
        return Score(float(loss), int(self._communicator.sum_counts(correct)[0]), self.total)

    def _table(
        self, rows: NDArray[np.int64], predicted: Array, wrong: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """Return (row, label, predicted, its output, the true class's output) of the wrong."""
        outputs = self._workspace.outputs.transpose(0, 2, 1)[wrong]
        labels, guesses = self._workspace.labels[wrong], predicted[wrong]
        each = np.arange(len(labels))
        return np.column_stack(
            [rows[wrong], labels, guesses, outputs[each, guesses], outputs[each, labels]]
        ).astype(np.float64)


def _worst(mistakes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep the most confident mistakes, the lower row number first among equals."""
    order = np.lexsort((mistakes[:, 0], -mistakes[:, 3]))
    return mistakes[order[:_NUM_MISTAKES]]
