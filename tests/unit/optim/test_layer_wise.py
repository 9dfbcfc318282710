"""LARS and LAMB against hand-worked numbers, and against sums over all steps in float64."""

import math

import numpy as np
import pytest

from lockstep.nn.mlp import MLP
from lockstep.optim.optimizers import OPTIMIZERS, Hyperparameters

LEARNING_RATE = 0.1


def steps(name, hyperparameters, start, gradients, num_weights=2, learning_rate=LEARNING_RATE):
    """A layer of weights and biases."""
    parameters = np.array(start, dtype=float)
    optimizer = OPTIMIZERS[name](parameters, [slice(0, num_weights)], hyperparameters)
    for step, gradient in enumerate(gradients):
        optimizer.step(parameters, np.array(gradient, dtype=float), learning_rate, step)
    return parameters, optimizer.state


def test_lars():
    options = Hyperparameters(momentum=0.9, weight_decay=0.1, trust_coefficient=0.02)
    start, first, second = (3, 4, 2), (0.6, 0.8, 1), (0, 2, 0.5)
    # |w| = 5 and |g| = 1, so the ratio is 0.02 * 5 / (1 + 0.1 * 5) = 1 / 15. The rate is then
    # 0.5 / 15 = 1 / 30, and g + 0.1 w = (0.9, 1.2). The bias takes a step of 0.5 * 1.
    parameters, state = steps("lars", options, start, [first], learning_rate=0.5)
    np.testing.assert_allclose(state["velocity"], [0.03, 0.04, 0.5])
    np.testing.assert_allclose(parameters, [2.97, 3.96, 1.5])
    # |w| = 4.95 and |g| = 2, so the ratio is 0.02 * 4.95 / (2 + 0.495) = 0.099 / 2.495, and
    # g + 0.1 w = (0.297, 2.396). The bias has v = 0.9 * 0.5 + 0.5 * 0.5 = 0.7.
    rate = 0.5 * 0.099 / 2.495
    velocity = [0.9 * 0.03 + rate * 0.297, 0.9 * 0.04 + rate * 2.396, 0.7]
    parameters, state = steps("lars", options, start, [first, second], learning_rate=0.5)
    np.testing.assert_allclose(state["velocity"], velocity)
    np.testing.assert_allclose(parameters, np.array([2.97, 3.96, 1.5]) - velocity)


def test_lamb():
    options = Hyperparameters(epsilon=1e-30, weight_decay=0.1)
    start, first = (3, 4, 2), np.array([0.6, -0.8, 0.5])
    # After one step the corrected moments are g and g**2, so r = (1, -1) and 1 for the bias.
    # r + 0.1 w = (1.3, -0.6), whose norm is sqrt(1.69 + 0.36); that of w is 5.
    ratio = 5 / math.sqrt(2.05)
    weights = np.array([3 - 0.1 * ratio * 1.3, 4 + 0.1 * ratio * 0.6])
    parameters, state = steps("lamb", options, start, [first])
    np.testing.assert_allclose(parameters, [*weights, 2 - 0.1])
    np.testing.assert_allclose(state["first_moment"], 0.1 * first)
    np.testing.assert_allclose(state["second_moment"], 0.001 * first**2)
    # Half the gradient: the moments are 0.14 g and 0.001249 g**2, as in Adam's test, so r is
    # 0.14 / 0.19 / sqrt(0.001249 / 0.001999) with the signs of before.
    r = 0.14 / 0.19 / math.sqrt(0.001249 / 0.001999)
    direction = np.array([r, -r]) + 0.1 * weights
    ratio = math.hypot(*weights) / math.hypot(*direction)
    parameters, _ = steps("lamb", options, start, [first, first / 2])
    np.testing.assert_allclose(parameters[:2], weights - 0.1 * ratio * direction)
    assert parameters[2] == pytest.approx(2 - 0.1 - 0.1 * r)


def lars_by_sums(weights, gradients, options, is_decayed):
    """The velocity as the sum of all earlier changes, each with the momentum of its age."""
    changes = []
    for gradient in gradients:
        decay, ratio = 0.0, 1.0
        if is_decayed:
            decay, length = options.weight_decay, np.linalg.norm(weights)
            ratio = options.trust_coefficient / (np.linalg.norm(gradient) / length + decay)
        changes.append(LEARNING_RATE * ratio * (gradient + decay * weights))
        ages = range(len(changes) - 1, -1, -1)
        weights = weights - sum(
            options.momentum**age * change for age, change in zip(ages, changes, strict=True)
        )
    return weights


def lamb_by_sums(weights, gradients, options, is_decayed):
    """The moments as weighted means of all earlier gradients and their squares."""
    for step in range(1, len(gradients) + 1):
        ages = np.arange(step)[::-1]
        past = np.array(gradients[:step]).reshape(step, -1)
        first = np.average(past, axis=0, weights=options.beta1**ages)
        second = np.average(past**2, axis=0, weights=options.beta2**ages)
        direction = (first / (np.sqrt(second) + options.epsilon)).reshape(weights.shape)
        if is_decayed:
            direction += options.weight_decay * weights
            direction *= np.linalg.norm(weights) / np.linalg.norm(direction)
        weights = weights - LEARNING_RATE * direction
    return weights


@pytest.mark.parametrize(("name", "oracle"), [("lars", lars_by_sums), ("lamb", lamb_by_sums)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_each_layers_weights_take_steps_of_their_own(name, oracle, weight_decay):
    network = MLP((7, 6, 5, 3), "relu", "cross_entropy", "layer")
    options = Hyperparameters(weight_decay=weight_decay, trust_coefficient=0.2, epsilon=0.01)
    generator = np.random.default_rng(1)
    parameters = generator.standard_normal(network.num_trainable)
    gradients = [generator.standard_normal(network.num_trainable) for _ in range(12)]
    expected = []
    for index, layer in enumerate(network.layers(parameters)):
        # The rows are those of weights, the bias and, in hidden layers, the gain.
        fan_in = network.widths[index]
        own = [network.layers(gradient)[index] for gradient in gradients]
        weights = oracle(layer[:fan_in], [g[:fan_in] for g in own], options, is_decayed=True)
        others = oracle(layer[fan_in:], [g[fan_in:] for g in own], options, is_decayed=False)
        expected += [weights.ravel(), others.ravel()]
    optimizer = OPTIMIZERS[name](parameters, network.weight_slices, options)
    for step, gradient in enumerate(gradients):
        optimizer.step(parameters, gradient.copy(), LEARNING_RATE, step)
    np.testing.assert_allclose(parameters, np.concatenate(expected), rtol=1e-11)


def test_weights_of_zero_take_the_step_of_a_ratio_of_one():
    start, gradients = (0, 0, 0), [(0.5, -2, 1)]
    parameters, _ = steps("lars", Hyperparameters(weight_decay=0.1), start, gradients)
    np.testing.assert_allclose(parameters, [-0.05, 0.2, -0.1])
    options = Hyperparameters(weight_decay=0.1, epsilon=1e-30)
    parameters, _ = steps("lamb", options, start, gradients)
    np.testing.assert_allclose(parameters, [-0.1, 0.1, -0.1])


def test_a_gradient_of_zero_leaves_the_decay():
    start, gradients = (3, 4, 2), [(0, 0, 0)]
    # The ratio of LARS is 1, so the weights shrink by 0.1 * 0.5.
    parameters, _ = steps("lars", Hyperparameters(weight_decay=0.5), start, gradients)
    np.testing.assert_allclose(parameters, [2.85, 3.8, 2])
    # LAMB's step is as long as the weights, times the learning rate.
    parameters, _ = steps("lamb", Hyperparameters(weight_decay=0.5), start, gradients)
    np.testing.assert_allclose(parameters, [2.7, 3.6, 2])


@pytest.mark.parametrize("name", ["lars", "lamb"])
@pytest.mark.parametrize("size", [0.0, 1e-42])
def test_next_to_no_gradient_without_decay_moves_next_to_nothing(name, size):
    # |w| / |g| is beyond what float32 can tell.
    parameters = np.ones(4, "f4")
    optimizer = OPTIMIZERS[name](parameters, [slice(0, 3)], Hyperparameters())
    optimizer.step(parameters, np.full(4, size, "f4"), LEARNING_RATE, 0)
    np.testing.assert_allclose(parameters, 1, atol=1e-6)


@pytest.mark.parametrize("name", ["lars", "lamb"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_layers_of_many_blocks_have_the_same_bits_however_the_update_is_made(name, dtype):
    size = 400_003
    weights = [slice(0, 300_000), slice(300_100, 400_000)]
    generator = np.random.default_rng(0)
    gradients = generator.standard_normal((3, size)).astype(dtype)
    start = generator.standard_normal(size).astype(dtype)

    def train(slices):
        parameters = start.copy()
        optimizer = OPTIMIZERS[name](parameters, weights, Hyperparameters(weight_decay=0.1))
        for step, gradient in enumerate(gradients):
            update = gradient.copy()
            if slices is None:
                optimizer.step(parameters, update, LEARNING_RATE, step)
                continue
            for where in slices:
                optimizer.make_update(update, where, LEARNING_RATE, step)
            optimizer.apply(parameters, update, LEARNING_RATE)
        return parameters.tobytes()

    assert train([slice(0, 123_457), slice(123_457, size)]) == train(None)
    # The update is shared with other ranks.
    parameters, update = start.copy(), gradients[0].copy()
    update.flags.writeable = False
    optimizer = OPTIMIZERS[name](parameters, weights, Hyperparameters())
    optimizer.apply(parameters, update, LEARNING_RATE)
