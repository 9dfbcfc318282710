"""The network's arithmetic: worked by hand, against finite differences, and per virtual rank."""

import math

import numpy as np
import pytest

from lockstep.nn.functional import ACTIVATIONS
from lockstep.nn.initializers import INITIALIZERS, initialize
from lockstep.nn.losses import LOSSES
from lockstep.nn.mlp import MLP, Workspace


def filled_workspace(network, num_virtual_ranks, num_samples, seed=0):
    generator = np.random.default_rng(seed)
    workspace = Workspace(network, num_virtual_ranks, num_samples, np.float64)
    workspace.inputs[...] = generator.standard_normal(workspace.inputs.shape)
    workspace.labels[...] = generator.integers(0, network.widths[-1], workspace.labels.shape)
    return workspace


def gradient_of(network, workspace, parameters, factor=1.0, used=None):
    layers = network.layers(parameters)
    num_virtual_ranks = workspace.labels.shape[0]
    buffers = [np.empty((num_virtual_ranks, *shape)) for shape in network.layer_shapes]
    workspace.evaluate(layers)
    losses = workspace.losses.copy()
    order = list(workspace.backward(layers, buffers, factor, used))
    assert order == list(reversed(range(len(layers))))
    gradient = np.concatenate([buffer.reshape(num_virtual_ranks, -1) for buffer in buffers], axis=1)
    return losses, gradient


def test_a_network_worked_by_hand():
    # Two inputs, one sigmoid unit, two sigmoid outputs with the quadratic cost.
    # z1 = 1 * 0.5 + 2 * (-0.25) + 0 = 0, a1 = 0.5; z2 = (0.5 * 2 - 1, 0.5 * (-2) + 1) = (0, 0),
    # a2 = (0.5, 0.5). With class 0: C = ((0.5 - 1)^2 + 0.5^2) / 2 = 0.25.
    # delta2 = (-0.5, 0.5) * 0.25 = (-0.125, 0.125); delta1 = (2 * -0.125 + -2 * 0.125) * 0.25
    # = -0.125.
    network = MLP((2, 1, 2), "sigmoid", "quadratic")
    parameters = np.array([0.5, -0.25, 0.0, 2.0, -2.0, -1.0, 1.0])
    workspace = Workspace(network, 1, 1, np.float64)
    workspace.inputs[...] = [[[1.0, 2.0]]]
    workspace.labels[...] = 0
    losses, gradient = gradient_of(network, workspace, parameters)
    assert losses.item() == pytest.approx(0.25)
    np.testing.assert_allclose(workspace.outputs.ravel(), [0.5, 0.5])
    np.testing.assert_allclose(
        gradient[0],
        [-0.125, -0.25, -0.125, -0.0625, 0.0625, -0.125, 0.125],
    )


def test_softmax_and_cross_entropy_worked_by_hand():
    # One weight row of zeros and the bias (0, ln 3): probabilities 1/4 and 3/4.
    network = MLP((1, 2), "relu", "cross_entropy")
    parameters = np.array([0.0, 0.0, 0.0, math.log(3.0)])
    workspace = Workspace(network, 1, 2, np.float64)
    workspace.inputs[...] = [[[2.0], [1.0]]]
    workspace.labels[...] = [[0, 1]]
    losses, gradient = gradient_of(network, workspace, parameters, factor=0.5)
    np.testing.assert_allclose(losses, [[math.log(4.0), math.log(4.0 / 3.0)]])
    # Deltas (-3/4, 3/4) and (1/4, -1/4), halved by the factor.
    np.testing.assert_allclose(gradient[0], [-0.625, 0.625, -0.25, 0.25])


def test_cross_entropy_stays_finite_where_the_probability_rounds_to_zero():
    network = MLP((1, 2), "relu", "cross_entropy")
    workspace = Workspace(network, 1, 1, np.float32)
    workspace.inputs[...] = 1.0
    workspace.labels[...] = 0
    workspace.evaluate(network.layers(np.array([-500, 500, 0, 0], np.float32)))
    assert workspace.outputs[0, 0, 0] == 0.0
    assert workspace.losses.item() == 1000.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sigmoid_neither_overflows_nor_leaves_its_range(dtype):
    z = np.array([-1e30, -800, -100, 0, 100, 1e30], dtype)
    a = np.empty_like(z)
    ACTIVATIONS["sigmoid"].apply(z, a, np.empty_like(z))
    assert a.min() >= 0
    assert a.max() == 1
    assert a[3] == 0.5
    assert a[1] < 1e-37


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_gradient_agrees_with_central_differences(activation, loss):
    network = MLP((7, 6, 5, 4), activation, loss)
    parameters = np.random.default_rng(1).standard_normal(network.num_parameters)
    workspace = filled_workspace(network, num_virtual_ranks=2, num_samples=3)
    used = np.array([[True, True, True], [True, False, True]])

    def total_loss(shifted):
        workspace.evaluate(network.layers(shifted))
        return 0.125 * (workspace.losses * used).sum(axis=1)

    _, gradient = gradient_of(network, workspace, parameters, factor=0.125, used=used)
    step = 1e-5
    for index in range(network.num_parameters):
        unit = np.zeros_like(parameters)
        unit[index] = step
        slope = (total_loss(parameters + unit) - total_loss(parameters - unit)) / (2 * step)
        np.testing.assert_allclose(gradient[:, index], slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_samples", [1, 2, 5, 16, 33])
def test_a_virtual_rank_does_not_feel_its_neighbours(activation, dtype, num_samples):
    # The heart of the promise: the same bits whether a process runs one virtual rank or several.
    network = MLP((13, 11, 9, 7), activation, "cross_entropy")
    generator = np.random.default_rng(2)
    parameters = generator.standard_normal(network.num_parameters).astype(dtype)
    layers = network.layers(parameters)
    x = generator.standard_normal((3, num_samples, 13)).astype(dtype)
    y = generator.integers(0, 7, (3, num_samples))

    def run(block):
        workspace = Workspace(network, len(block), num_samples, dtype)
        workspace.inputs[...] = x[block]
        workspace.labels[...] = y[block]
        workspace.evaluate(layers)
        gradients = [np.empty((len(block), *shape), dtype) for shape in network.layer_shapes]
        losses = np.add.reduce(workspace.losses, axis=1)
        for _ in workspace.backward(layers, gradients, 1.0 / 7.0):
            pass
        return losses, gradients

    together = run([0, 1, 2])
    for virtual_rank in range(3):
        alone = run([virtual_rank])
        assert together[0][virtual_rank] == alone[0][0]
        for joint, single in zip(together[1], alone[1], strict=True):
            assert joint[virtual_rank].tobytes() == single[0].tobytes()


def test_padding_has_no_gradient_at_all():
    network = MLP((4, 3, 2), "tanh", "cross_entropy")
    parameters = np.random.default_rng(3).standard_normal(network.num_parameters)
    workspace = filled_workspace(network, 1, 5)
    used = np.array([[True, True, False, False, False]])
    _, padded = gradient_of(network, workspace, parameters, used=used)
    short = Workspace(network, 1, 2, np.float64)
    short.inputs[...] = workspace.inputs[:, :2]
    short.labels[...] = workspace.labels[:, :2]
    _, exact = gradient_of(network, short, parameters)
    np.testing.assert_allclose(padded, exact, rtol=1e-13)
    _, nothing = gradient_of(network, workspace, parameters, used=np.zeros((1, 5), bool))
    assert not nothing.any()


def test_layers_are_views_of_the_flat_vector_weights_before_bias():
    network = MLP((3, 2, 4), "relu", "cross_entropy")
    parameters = np.arange(network.num_parameters, dtype=np.float64)
    first, second = network.layers(parameters)
    np.testing.assert_array_equal(first, [[0, 1], [2, 3], [4, 5], [6, 7]])
    assert second.shape == (3, 4)
    assert second[-1, -1] == network.num_parameters - 1
    assert network.weight_slices == [slice(0, 6), slice(8, 16)]
    first[0, 0] = 42
    assert parameters[0] == 42
    assert str(network) == "3-2-4"


@pytest.mark.parametrize(
    ("initializer", "variance"),
    [
        ("standard_normal", 1.0),
        ("glorot_uniform", 2 / (300 + 200)),
        ("glorot_normal", 2 / (300 + 200)),
        ("he_uniform", 2 / 300),
        ("he_normal", 2 / 300),
    ],
)
def test_initial_weights_have_the_variance_of_their_paper(initializer, variance):
    network = MLP((300, 200), "relu", "cross_entropy")
    parameters = np.empty(network.num_parameters)
    initialize(initializer, network, parameters, seed=5)
    (layer,) = network.layers(parameters)
    assert layer[:-1].var() == pytest.approx(variance, rel=0.02)
    assert abs(layer[:-1].mean()) < 0.02 * math.sqrt(variance)
    if initializer == "standard_normal":
        assert layer[-1].var() == pytest.approx(1.0, rel=0.3)
    else:
        assert not layer[-1].any()
    if initializer.endswith("uniform"):
        assert abs(layer).max() <= math.sqrt(3 * variance)


def test_initial_weights_follow_from_the_seed_and_the_layer_alone():
    def draw(seed, *widths):
        network = MLP(widths, "relu", "cross_entropy")
        parameters = np.empty(network.num_parameters)
        initialize("he_normal", network, parameters, seed)
        return network.layers(parameters)

    one, two = draw(1, 4, 4, 4)
    assert (one != two)[:-1].all()
    np.testing.assert_array_equal(draw(1, 9, 4, 4)[1], two)
    assert (draw(2, 4, 4)[0] != one)[:-1].all()
    assert set(INITIALIZERS) >= {"standard_normal", "he_normal"}
