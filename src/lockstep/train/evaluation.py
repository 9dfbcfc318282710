"""Evaluation of a split by all ranks together, with the same result on any number of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lockstep.arrays import Array
from lockstep.data.batches import Batches, Scaling
from lockstep.data.dataset_file import DatasetFile
from lockstep.data.memory import MemoryBudget
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
        Open; this rank's rows are read at once, or block by block where they don't fit into the
        budget.
    split : str
        A split that isn't empty.
    scaling : Scaling
        Of the inputs, in the parameters' dtype.
    communicator : Communicator
        All of its ranks must evaluate together.
    num_virtual_ranks : int
        V.
    budget : MemoryBudget
        For the data set.
    """

    def __init__(
        self,
        network: MLP,
        dataset: DatasetFile,
        split: str,
        scaling: Scaling,
        communicator: Communicator,
        num_virtual_ranks: int,
        budget: MemoryBudget,
    ) -> None:
        self._network = network
        self._communicator = communicator
        self.total = dataset.info.num_samples[split]
        block_size = min(_BLOCK_SIZE, -(-self.total // num_virtual_ranks))
        sharding = Sharding(self.total, num_virtual_ranks * block_size, num_virtual_ranks)
        own = block(communicator.rank, communicator.world_size, num_virtual_ranks)
        self._batches = Batches(dataset, split, sharding, own, scaling, budget)
        shape = self._batches.shape
        self._workspace = Workspace(network.evaluated, *shape, scaling.scale.dtype)
        self._losses = np.empty(shape, scaling.scale.dtype)
        self._predicted = np.empty(shape, np.intp)
        self._is_correct = np.empty(shape, np.bool_)
        self._all_used = np.ones(shape, np.bool_)

    def score(self, parameters: Array) -> Score:
        """Return loss and correct classifications; collective."""
        losses = np.zeros(len(self._batches.virtual_ranks))
        correct = np.zeros(1, np.int64)
        for _, used in self._blocks(parameters):
            losses += self._loss_sums(used)
            np.equal(self._predicted, self._workspace.labels, out=self._is_correct)
            np.logical_and(self._is_correct, used, out=self._is_correct)
            correct += np.count_nonzero(self._is_correct)
        return self._score(losses, correct)

    def examine(self, parameters: Array) -> Examination:
        """Return score, confusion matrix and worst mistakes; collective."""
        num_classes = self._network.widths[-1]
        losses = np.zeros(len(self._batches.virtual_ranks))
        confusion = np.zeros((num_classes, num_classes), np.int64)
        mistakes = np.empty((0, 5))
        labels, predicted = self._workspace.labels, self._predicted
        for step, used in self._blocks(parameters):
            losses += self._loss_sums(used)
            np.add.at(confusion, (labels[used], predicted[used]), 1)
            wrong = used & (predicted != labels)
            rows = self._batches.rows(step)
            mistakes = _worst(np.concatenate([mistakes, self._table(rows, wrong)]))
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

    def _blocks(self, parameters: Array) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """Evaluate and classify block by block: yield each one's step and which samples count."""
        layers = self._network.evaluated_layers(parameters)
        batches, workspace = self._batches, self._workspace
        batches.in_stored_order()
        for step in batches:
            batches.fill(step, workspace.rows, workspace.labels)
            workspace.evaluate(layers)
            np.argmax(workspace.outputs, axis=1, out=self._predicted)
            yield step, self._all_used if batches.used is None else batches.used

    def _loss_sums(self, used: NDArray[np.bool_]) -> Array:
        np.multiply(self._workspace.losses, used, out=self._losses)
        sums: Array = np.add.reduce(self._losses, axis=1)
        return sums

    def _score(self, losses: NDArray[np.float64], correct: NDArray[np.int64]) -> Score:
        loss = tree_sum(self._communicator.gather_rows(losses)) / self.total
        return Score(float(loss), int(self._communicator.sum_counts(correct)[0]), self.total)

    def _table(self, rows: NDArray[np.int64], wrong: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return (row, label, predicted, its output, the true class's output) of the wrong."""
        outputs = self._workspace.outputs.transpose(0, 2, 1)[wrong]
        labels, guesses = self._workspace.labels[wrong], self._predicted[wrong]
        each = np.arange(len(labels))
        return np.column_stack(
            [rows[wrong], labels, guesses, outputs[each, guesses], outputs[each, labels]]
        ).astype(np.float64)


def _worst(mistakes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keep the most confident mistakes, the lower row number first among equals."""
    order = np.lexsort((mistakes[:, 0], -mistakes[:, 3]))
    return mistakes[order[:_NUM_MISTAKES]]
