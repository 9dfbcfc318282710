"""Updates against hand-worked numbers; the oracles are in tests/integration."""

import numpy as np
import pytest

from lockstep.optim import optimizers
from lockstep.optim.gradients import add_l1, add_l2, clip_norm
from lockstep.optim.optimizers import OPTIMIZERS, Hyperparameters


def two_steps(name, hyperparameters, gradients=(1.0, 0.5), learning_rate=0.1, start=2.0):
    """One weight and one bias, which get the same gradients."""
    parameters = np.full(2, start)
    optimizer = OPTIMIZERS[name](parameters, [slice(0, 1)], hyperparameters)
    for step, gradient in enumerate(gradients):
        update = np.full(2, gradient)
        optimizer.make_update(update, slice(0, 2), learning_rate, step)
        optimizer.apply(parameters, update, learning_rate)
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["momentum", "nesterov", "adam", "adamw", "lamb"])
def test_what_decays_never_becomes_denormal_and_that_moves_no_parameter(monkeypatch, name, dtype):
    def states_and_parameters():
        parameters = np.linspace(-1, 1, 50, dtype=dtype)
        hyperparameters = Hyperparameters(beta2=0.9, weight_decay=0.1)
        optimizer = OPTIMIZERS[name](parameters, [slice(0, 40)], hyperparameters)
        for step in range(7000 if dtype == np.float64 else 1200):
            # Gradients of all sizes at first, and then none but one, which is infinite.
            gradient = np.geomspace(1e-12, 1, 50).astype(dtype) if step < 3 else np.zeros(50, dtype)
            gradient[-1] = np.inf
            optimizer.step(parameters, gradient, 1e-3, step)
            yield optimizer.state, parameters

    def are_denormal(state):
        smallest = np.finfo(dtype).tiny
        return [((values != 0) & (np.abs(values) < smallest)).any() for values in state.values()]

    with np.errstate(invalid="ignore", over="ignore"):
        found = [any(are_denormal(state)) for state, _ in states_and_parameters()]
        *_, (state, moved) = states_and_parameters()
        monkeypatch.setattr(optimizers, "_FLUSH_EVERY_STEPS", 10**9)
        *_, (unflushed, moved_without) = states_and_parameters()
    assert not any(found)
    assert all(
        (values[:-1] == 0).all() and not np.isfinite(values[-1]) for values in state.values()
    )
    assert any(are_denormal(unflushed))
    assert moved[:-1].tobytes() == moved_without[:-1].tobytes()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("block_size", [1000, 77])
def test_the_update_made_in_slices_and_blocks_is_the_update(monkeypatch, name, block_size):
    # Ranks share it, and each takes its part in blocks that fit the cache: the same bits.
    generator = np.random.default_rng(0)
    gradients = generator.standard_normal((3, 1001)).astype("f4")
    weights = [slice(0, 90), slice(100, 999)]

    def train(slices):
        parameters = np.linspace(-1, 1, 1001, dtype="f4")
        optimizer = OPTIMIZERS[name](parameters, weights, Hyperparameters(weight_decay=0.1))
        for step, gradient in enumerate(gradients):
            update = gradient.copy()
            if slices is None:
                optimizer.step(parameters, update, 0.01, step)
                continue
            for where in slices:
                optimizer.make_update(update, where, 0.01, step)
            optimizer.apply(parameters, update, 0.01)
        return parameters.tobytes(), {slot: a.tobytes() for slot, a in optimizer.state.items()}

    whole = train([slice(0, 1001)])
    monkeypatch.setattr(optimizers, "_BLOCK_SIZE", block_size)
    assert train([slice(0, 333), slice(333, 700), slice(700, 1001)]) == whole
    # Whoever makes all of it takes the step at once.
    assert train(None) == whole


def test_a_slice_of_the_update_leaves_the_rest_alone():
    gradient = np.ones(5)
    optimizer = OPTIMIZERS["momentum"](gradient, [slice(0, 5)], Hyperparameters())
    optimizer.make_update(gradient, slice(1, 3), 0.5, 0)
    assert gradient.tolist() == [1, 0.5, 0.5, 1, 1]
    assert optimizer.state["velocity"].tolist() == [0, 1, 1, 0, 0]


def test_l2_adds_its_gradient_to_weights_only():
    gradient, parameters = np.ones(3), np.array([2.0, -4.0, 8.0])
    add_l2(gradient, slice(0, 3), parameters, [slice(0, 2)], 0.5)
    np.testing.assert_allclose(gradient, [2.0, -1.0, 1.0])
    add_l2(gradient, slice(1, 3), parameters, [slice(0, 2)], 0.5)
    np.testing.assert_allclose(gradient, [2.0, -3.0, 1.0])


def test_l1_adds_the_slope_of_its_penalty_to_weights_only():
    parameters, l1, distance = np.array([2.0, -4.0, 0.5, 8.0, -1.0]), 0.3, 1e-6
    weights = [slice(0, 2), slice(3, 4)]

    def penalty(values):
        return l1 * sum(np.abs(values[part]).sum() for part in weights)

    slopes = [
        (penalty(parameters + shift) - penalty(parameters - shift)) / (2 * distance)
        for shift in distance * np.eye(5)
    ]
    gradient = np.ones(5)
    add_l1(gradient, slice(0, 5), parameters, weights, l1)
    np.testing.assert_allclose(gradient, 1 + np.array(slopes), rtol=1e-8)
    add_l1(gradient, slice(1, 3), parameters, weights, l1)
    np.testing.assert_allclose(gradient, [1.3, 0.4, 1.0, 1.3, 1.0])


def test_l1_leaves_weights_of_zero_alone():
    gradient = np.array([1.0, -1.0], "f4")
    add_l1(gradient, slice(0, 2), np.array([0.0, -0.0], "f4"), [slice(0, 2)], 0.5)
    assert gradient.tolist() == [1.0, -1.0]


def test_clipping_scales_the_whole_gradient_to_the_limit():
    gradient = np.array([3.0, 4.0])
    assert clip_norm(gradient, 1.0) == pytest.approx(5.0)
    np.testing.assert_allclose(gradient, [0.6, 0.8])
    assert clip_norm(gradient, 2.0) == pytest.approx(1.0)
    np.testing.assert_allclose(gradient, [0.6, 0.8])
