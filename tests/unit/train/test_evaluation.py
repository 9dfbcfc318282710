"""Evaluation: the same bits block by block as all at once, and what it counts."""

import dataclasses

import numpy as np
import pytest

from lockstep.data.batches import scaling_of
from lockstep.data.dataset_file import DatasetFile
from lockstep.data.memory import MemoryBudget
from lockstep.nn.initializers import initialize
from lockstep.nn.mlp import MLP
from lockstep.parallel.single import SingleProcess
from lockstep.train.evaluation import Evaluation

NETWORK = MLP((64, 12, 10), "tanh", "cross_entropy")


@pytest.fixture
def digits(digits_file):
    with DatasetFile.open(digits_file) as dataset:
        yield dataset


def parameters_of(seed, dtype="float32"):
    parameters = np.empty(NETWORK.num_parameters, dtype)
    initialize("he_normal", NETWORK, parameters, seed)
    return parameters


def evaluation_of(dataset, split, megabytes, virtual_ranks=3, dtype="float32"):
    return Evaluation(
        NETWORK, dataset, split, scaling_of(dataset, dtype), SingleProcess(), virtual_ranks,
        MemoryBudget(megabytes, dataset.info, dtype),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("virtual_ranks", [1, 3])
@pytest.mark.parametrize("split", ["train", "test"])
def test_block_by_block_gives_the_same_bits(digits, monkeypatch, split, virtual_ranks, dtype):
    # Small enough for several blocks of the test split.
    monkeypatch.setattr("lockstep.train.evaluation._BLOCK_SIZE", 7)
    parameters = parameters_of(0, dtype)
    whole, blocks = (
        evaluation_of(digits, split, megabytes, virtual_ranks, dtype) for megabytes in (1, 0.03)
    )
    num_read = count_rows_read(monkeypatch)
    score = blocks.score(parameters)
    assert sum(num_read) == digits.info.num_samples[split]
    assert len(num_read) > 2 * virtual_ranks
    assert score == whole.score(parameters)
    # Another time, from the beginning.
    assert score == blocks.score(parameters)
    assert score != blocks.score(parameters_of(1, dtype))
    found, expected = blocks.examine(parameters), whole.examine(parameters)
    assert found.score == expected.score == score
    np.testing.assert_array_equal(found.confusion, expected.confusion)
    for field in dataclasses.fields(found.mistakes):
        mine, other = (getattr(e.mistakes, field.name) for e in (found, expected))
        assert mine.tobytes() == other.tobytes()


def count_rows_read(monkeypatch):
    """Return a list to which the number of rows of every read will be added."""
    counts, original = [], DatasetFile.read

    def read(dataset, split, start, stop, out=None):
        counts.append(stop - start)
        return original(dataset, split, start, stop, out)

    monkeypatch.setattr(DatasetFile, "read", read)
    return counts


@pytest.mark.parametrize("megabytes", [1, 0.03])
def test_counts_and_loss_are_those_of_a_plain_forward_pass(digits, megabytes):
    parameters = parameters_of(0, "float64")
    found = evaluation_of(digits, "test", megabytes, dtype="float64").examine(parameters)
    x, y = digits.read("test", 0, digits.info.num_samples["test"])
    first, second = NETWORK.layers(parameters)
    z = np.tanh(x / 16 @ first[:-1] + first[-1]) @ second[:-1] + second[-1]
    probabilities = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    predicted = probabilities.argmax(axis=1)
    each = np.arange(len(y))
    assert found.score.correct == (predicted == y).sum()
    assert found.score.total == len(y)
    assert found.score.loss == pytest.approx(-np.log(probabilities[each, y]).mean(), rel=1e-12)
    confusion = np.zeros((10, 10), int)
    np.add.at(confusion, (y, predicted), 1)
    np.testing.assert_array_equal(found.confusion, confusion)
    wrong = np.flatnonzero(predicted != y)
    worst = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:36]
    np.testing.assert_array_equal(found.mistakes.rows, worst)
