"""Updates against hand-worked numbers; the oracles are in tests/integration."""

import numpy as np
import pytest

from lockstep.optim.gradients import add_l2, clip_norm
from lockstep.optim.optimizers import OPTIMIZERS, Hyperparameters


def two_steps(name, hyperparameters, gradients=(1.0, 0.5), learning_rate=0.1, start=2.0):
    """One weight and one bias, which get the same gradients."""
    parameters = np.full(2, start)
    optimizer = OPTIMIZERS[name](parameters, [slice(0, 1)], hyperparameters)
    for step, gradient in enumerate(gradients):
        given = np.full(2, gradient)
        optimizer.update(parameters, given, learning_rate, step)
        assert (given == gradient).all(), "the gradient may be shared and must be left alone"
    return parameters, optimizer.state


def test_sgd():
    parameters, state = two_steps("sgd", Hyperparameters())
    np.testing.assert_allclose(parameters, 2 - 0.1 - 0.05)
    assert state == {}


def test_momentum():
    # v = 1, then 0.9 + 0.5 = 1.4.
    parameters, state = two_steps("momentum", Hyperparameters(momentum=0.9))
    np.testing.assert_allclose(parameters, 2 - 0.1 - 0.14)
    np.testing.assert_allclose(state["velocity"], 1.4)


def test_nesterov():
    # Steps of g + 0.9 v: 1 + 0.9, then 0.5 + 0.9 * 1.4.
    parameters, _ = two_steps("nesterov", Hyperparameters(momentum=0.9))
    np.testing.assert_allclose(parameters, 2 - 0.19 - 0.176)


def test_adam():
    # After one step the corrected moments are g and g**2, so the step is the learning rate.
    # Then m = 0.9 * 0.1 + 0.1 * 0.5 = 0.14, v = 0.999 * 0.001 + 0.001 * 0.25 = 0.001249.
    parameters, state = two_steps("adam", Hyperparameters(epsilon=1e-30))
    second = 0.1 * (0.14 / 0.19) / np.sqrt(0.001249 / 0.001999)
    np.testing.assert_allclose(parameters, 2 - 0.1 - second)
    np.testing.assert_allclose(state["first_moment"], 0.14)
    np.testing.assert_allclose(state["second_moment"], 0.001249)


def test_adamw_decays_weights_and_spares_biases():
    weight_and_bias, _ = two_steps("adamw", Hyperparameters(epsilon=1e-30, weight_decay=0.5))
    undecayed, _ = two_steps("adam", Hyperparameters(epsilon=1e-30))
    assert weight_and_bias[1] == undecayed[1]
    first_step = 2 * (1 - 0.1 * 0.5) - 0.1
    second_step = first_step * (1 - 0.1 * 0.5) - (1.9 - undecayed[0])
    assert weight_and_bias[0] == pytest.approx(second_step)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_slice_of_the_update_is_the_update_of_the_slice(name):
    # Ranks may later share the update; it is element-wise, so the bits must not change.
    generator = np.random.default_rng(0)
    start, gradients = generator.standard_normal((2, 1001)), generator.standard_normal((3, 1001))
    whole, parts = start[0].astype("f4"), start[0].astype("f4")
    optimizer = OPTIMIZERS[name](whole, [slice(0, 1001)], Hyperparameters(weight_decay=0.1))
    for step, gradient in enumerate(gradients.astype("f4")):
        optimizer.update(whole, gradient, 0.01, step)
    for where in (slice(0, 333), slice(333, 1001)):
        part = OPTIMIZERS[name](
            parts[where], [slice(0, len(parts[where]))], Hyperparameters(weight_decay=0.1)
        )
        for step, gradient in enumerate(gradients.astype("f4")):
            part.update(parts[where], gradient[where], 0.01, step)
    assert whole.tobytes() == parts.tobytes()


def test_l2_adds_its_gradient_to_weights_only():
    gradient = np.ones(3)
    add_l2(gradient, np.array([2.0, -4.0, 8.0]), [slice(0, 2)], 0.5)
    np.testing.assert_allclose(gradient, [2.0, -1.0, 1.0])


def test_clipping_scales_the_whole_gradient_to_the_limit():
    gradient = np.array([3.0, 4.0])
    assert clip_norm(gradient, 1.0) == pytest.approx(5.0)
    np.testing.assert_allclose(gradient, [0.6, 0.8])
    assert clip_norm(gradient, 2.0) == pytest.approx(1.0)
    np.testing.assert_allclose(gradient, [0.6, 0.8])
