"""The mean of several networks' outputs, and what it scores, worked out by hand."""

from math import exp, log, log1p
from pathlib import Path

import numpy as np
import pytest

from lockstep.config import Config
from lockstep.data.batches import Scaling
from lockstep.data.samples import Form
from lockstep.nn.mlp import MLP
from lockstep.train.ensemble import Member, mean_block, mean_probabilities
from lockstep.train.evaluation import Block
from lockstep.train.model import Model


def member(biases, dtype="float32"):
    """Return one whose probabilities follow from its biases alone."""
    network = MLP((2, 3), "relu", "cross_entropy")
    parameters = np.array([0, 0, 0, 0, 0, 0, *biases], dtype)
    scaling = Scaling(np.array(1, dtype), np.array(0, dtype))
    model = Model(network, parameters, scaling, ("a", "b", "c"), Form((2,), "none", 1), "")
    return Member(Path("run"), Config(), model)


def test_probabilities_are_averaged_over_all_members_alike():
    members = [
        member([log(2), log(1), log(1)]),  # 1/2, 1/4, 1/4
        member([log(1), log(1), log(8)], "float64"),  # 1/10, 1/10, 8/10
        member([log(3), log(0.5), log(1.5)]),  # 6/10, 1/10, 3/10
    ]
    mean = mean_probabilities(members, np.zeros((5, 2), np.uint8))
    assert mean.dtype == np.float64
    np.testing.assert_allclose(mean, [[0.4, 0.15, 0.45]] * 5, rtol=1e-6)


def block(outputs, labels, losses, dtype="float32"):
    """Return the block of one virtual rank, of outputs with a row per sample."""
    columns = np.array(outputs, dtype).T[np.newaxis]
    return Block(
        step=0,
        used=np.ones((1, len(labels)), np.bool_),
        labels=np.array([labels], np.int32),
        predicted=columns.argmax(axis=1),
        outputs=columns,
        losses=np.array([losses], dtype),
    )


def test_the_loss_is_the_cross_entropy_of_the_mean_probability():
    first = [[0.5, 0.25, 0.25], [0.9, 0.05, 0.05]]
    second = [[0.125, 0.75, 0.125], [0.3, 0.6, 0.1]]
    blocks = [
        block(first, [1, 0], [-log(0.25), -log(0.9)]),
        block(second, [1, 0], [-log(0.75), -log(0.3)], "float64"),
    ]
    mean = mean_block(blocks, "cross_entropy")
    np.testing.assert_allclose(mean.losses, [[log(2), -log(0.6)]], rtol=1e-6)
    np.testing.assert_allclose(
        mean.outputs, [[[0.3125, 0.6], [0.5, 0.325], [0.1875, 0.075]]], rtol=1e-6
    )
    np.testing.assert_array_equal(mean.predicted, [[1, 0]])


def test_the_loss_is_finite_where_all_probabilities_round_to_zero():
    blocks = [block([[1, 0, 0]], [2], [loss]) for loss in (300, 200, 200.5)]
    expected = 200 + log(3) - log1p(exp(-100) + exp(-0.5))
    assert mean_block(blocks, "cross_entropy").losses[0, 0] == pytest.approx(expected, rel=1e-12)


def test_the_quadratic_loss_is_that_of_the_mean_outputs():
    blocks = [block([[0.75, 0.5]], [0], [0.15625]), block([[0.25, 0.25]], [0], [0.3125])]
    # The mean is (1/2, 3/8): (1/4 + 9/64) / 2.
    assert mean_block(blocks, "quadratic").losses[0, 0] == 0.1953125
