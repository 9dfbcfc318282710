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
class Classification:
    """How a split was classified.

    Parameters
    ----------
    score : Score
        The headline.
    confusion : ndarray of int64 (num_classes, num_classes)
        Samples by true class (rows) and predicted class (columns).
    """

    score: Score
    confusion: NDArray[np.int64]


@dataclass(frozen=True)
class Examination(Classification):
    """The same with all else that the report tells of it.

    Parameters
    ----------
    mistakes : Mistakes
        The worst of them.
    """

    mistakes: Mistakes


@dataclass(frozen=True)
class Block:
    """What a network makes of some samples; overwritten by the next block.

    Parameters
    ----------
    step : int
        Which block it is, counted from 0.
    used : ndarray of bool (own virtual ranks, samples)
        Which samples are no padding.
    labels, predicted : ndarray of integers (own virtual ranks, samples)
        Class indices.
    outputs : ndarray (own virtual ranks, classes, samples)
        The network's.
    losses : ndarray (own virtual ranks, samples)
        Of each sample.
    """

    step: int
    used: NDArray[np.bool_]
    labels: NDArray[np.int32]
    predicted: NDArray[np.intp]
    outputs: Array
    losses: Array


class Tally:
    """Adds up losses and classifications block by block.

    Parameters
    ----------
    num_virtual_ranks : int
        This rank's own.
    num_classes : int
        Of the data set.
    """

    def __init__(self, num_virtual_ranks: int, num_classes: int) -> None:
        self._losses = np.zeros(num_virtual_ranks)
        self._confusion = np.zeros((num_classes, num_classes), np.int64)

    def add(self, block: Block) -> None:
        """Add the samples of a block."""
        self._losses += np.add.reduce(np.multiply(block.losses, block.used), axis=1)
        np.add.at(self._confusion, (block.labels[block.used], block.predicted[block.used]), 1)

    def result(self, communicator: Communicator) -> Classification:
        """Return how the samples of all ranks were classified; collective."""
        confusion = communicator.sum_counts(self._confusion)
        correct, total = int(np.trace(confusion)), int(confusion.sum())
        loss = tree_sum(communicator.gather_rows(self._losses)) / total
        return Classification(Score(float(loss), correct, total), confusion)


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
        for found in self.blocks(parameters):
            losses += self._loss_sums(found.used)
            np.equal(found.predicted, found.labels, out=self._is_correct)
            np.logical_and(self._is_correct, found.used, out=self._is_correct)
            correct += np.count_nonzero(self._is_correct)
        loss = tree_sum(self._communicator.gather_rows(losses)) / self.total
        return Score(float(loss), int(self._communicator.sum_counts(correct)[0]), self.total)

    def examine(self, parameters: Array) -> Examination:
        """Return score, confusion matrix and worst mistakes; collective."""
        tally = self.new_tally()
        mistakes = np.empty((0, 5))
        for found in self.blocks(parameters):
            tally.add(found)
            wrong = found.used & (found.predicted != found.labels)
            rows = self._batches.rows(found.step)
            mistakes = _worst(np.concatenate([mistakes, self._table(rows, wrong)]))
        result = tally.result(self._communicator)
        worst = _worst(self._communicator.gather_rows(mistakes))
        return Examination(
            result.score,
            result.confusion,
            Mistakes(
                worst[:, 0].astype(np.int64),
                worst[:, 1].astype(np.int64),
                worst[:, 2].astype(np.int64),
                worst[:, 3],
                worst[:, 4],
            ),
        )

    def new_tally(self) -> Tally:
        """Return an empty tally for this rank's samples."""
        return Tally(len(self._batches.virtual_ranks), self._network.widths[-1])

    def blocks(self, parameters: Array) -> Iterator[Block]:
        """Evaluate and classify this rank's samples block by block."""
        layers = self._network.evaluated_layers(parameters)
        batches, workspace = self._batches, self._workspace
        batches.in_stored_order()
        for step in batches:
            batches.fill(step, workspace.rows, workspace.labels)
            workspace.evaluate(layers)
            np.argmax(workspace.outputs, axis=1, out=self._predicted)
            used = self._all_used if batches.used is None else batches.used
            yield Block(
                step, used, workspace.labels, self._predicted, workspace.outputs, workspace.losses
            )

    def _loss_sums(self, used: NDArray[np.bool_]) -> Array:
        np.multiply(self._workspace.losses, used, out=self._losses)
        sums: Array = np.add.reduce(self._losses, axis=1)
        return sums

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
