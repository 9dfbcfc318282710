"""The averages of the weights, worked by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from lockstep.config import Config, Optimization, Training
from lockstep.train.averaging import Averaging


def averaging_of(kind, averaging_epochs, epochs, steps_per_epoch, parameters):
    config = Config(
        optimization=Optimization(averaging=kind, averaging_epochs=averaging_epochs),
        training=replace(Training(), epochs=epochs),
    )
    return Averaging(config, parameters, steps_per_epoch)


def averages(kind, averaging_epochs, epochs, steps_per_epoch):
    """Return the average after each step of weights that are the step's number."""
    parameters = np.zeros(3)
    averaging = averaging_of(kind, averaging_epochs, epochs, steps_per_epoch, parameters)
    found = []
    for step in range(1, epochs * steps_per_epoch + 1):
        parameters.fill(step)
        averaging(step)
        found.append(averaging.average[0])
        assert (averaging.average == averaging.average[0]).all()
    return found


def test_the_last_epochs_have_their_plain_mean():
    # Three epochs of 4 steps; the last two begin after step 4.
    found = averages("last", 2.0, 3, 4)
    assert found[:4] == [1, 2, 3, 4]
    np.testing.assert_allclose(found[4:], [np.mean(range(5, step + 1)) for step in range(5, 13)])


def test_last_may_be_all_of_a_training_that_is_shorter():
    np.testing.assert_allclose(averages("last", 9.0, 2, 3), [1, 1.5, 2, 2.5, 3, 3.5])


def test_an_exponential_average_is_plain_at_first_and_then_forgets():
    # A time constant of 3 steps: the newest part is 1 - exp(-1/3) = 0.283, so three are plain.
    found = averages("exponential", 0.75, 3, 4)
    part = 1 - math.exp(-1 / 3)
    expected = [1.0, 1.5, 2.0]
    for step in range(4, 13):
        expected.append((1 - part) * expected[-1] + part * step)
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("steps_per_epoch", [128, 150, 640, 1001])
def test_long_epochs_are_taken_in_64_times_or_some_more_and_at_their_end(steps_per_epoch):
    parameters = np.zeros(1)
    averaging = averaging_of("last", 1.0, 2, steps_per_epoch, parameters)
    taken = []
    for step in range(1, 2 * steps_per_epoch + 1):
        parameters[0] = step
        before = averaging.average[0]
        averaging(step)
        if averaging.average[0] != before and step > steps_per_epoch:
            taken.append(step)
    assert 64 <= len(taken) <= 80
    assert taken[-1] == 2 * steps_per_epoch
    assert averaging.average[0] == pytest.approx(np.mean(taken))
