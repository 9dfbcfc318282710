"""Normalization: worked by hand, against finite differences, folded, and per virtual rank."""

import math

import numpy as np
import pytest

from lockstep.nn.functional import ACTIVATIONS
from lockstep.nn.mlp import MLP, Workspace
from lockstep.nn.normalization import EPSILON, BatchNormalization, LayerNormalization, fold

USED = np.array([[True, True, True, True], [True, False, True, False], [False] * 4])


def random_parameters(network, seed=1):
    parameters = np.random.default_rng(seed).standard_normal(network.num_parameters)
    for _, variances in network.statistics(parameters):
        np.abs(variances, out=variances)
    return parameters


def filled_workspace(network, num_virtual_ranks, num_samples, **options):
    generator = np.random.default_rng(0)
    workspace = Workspace(network, num_virtual_ranks, num_samples, np.float64, **options)
    workspace.inputs[...] = generator.standard_normal(workspace.inputs.shape)
    workspace.labels[...] = generator.integers(0, network.widths[-1], workspace.labels.shape)
    return workspace


def test_batch_normalization_worked_by_hand():
    # One unit with z = 1, 3 and a padding sample: mean 2, variance 1, normalized -1, 1.
    shares = np.array([[[0.5, 0.5, 0.0]]])
    one = BatchNormalization(1, 3, 1, shares, np.float64)
    z = np.array([[[1.0], [3.0], [100.0]]])
    scratch = np.empty_like(z)
    one.forward(z, np.array([2.0]), np.array([10.0]), scratch)
    assert one.means.item() == 2.0
    assert one.variances.item() == 1.0
    root = math.sqrt(1.0 + EPSILON)
    np.testing.assert_allclose(z[0, :2, 0], [10.0 - 2.0 / root, 10.0 + 2.0 / root])
    # delta = 1, 0: by the bias 1, by the gain 1 * (-1); by z, with a standard deviation of 1:
    # 2 * (1 - (1 + -1 * -1) / 2, 0 - (1 + 1 * -1) / 2) = 0, 0; the padding has none.
    delta = np.array([[[1.0], [0.0], [0.0]]])
    gradient = np.empty((1, 2, 1))
    one.backward(delta, np.array([2.0]), gradient, scratch)
    np.testing.assert_allclose(gradient.ravel(), [1.0, -1.0 / root])
    np.testing.assert_allclose(delta.ravel(), 0.0, atol=2 * EPSILON)
    assert delta[0, 2, 0] == 0.0


def test_layer_normalization_worked_by_hand():
    # Units -3 and 1: mean -1, variance 4, normalized -1 and 1.
    one = LayerNormalization(1, 1, 2, np.float64)
    z = np.array([[[-3.0, 1.0]]])
    one.forward(z, np.array([1.0, 2.0]), np.array([0.5, 0.0]), np.empty_like(z))
    ratio = 2.0 / math.sqrt(4.0 + EPSILON)
    np.testing.assert_allclose(z.ravel(), [0.5 - ratio, 2.0 * ratio])


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_the_gradient_agrees_with_central_differences(normalization, activation):
    network = MLP((5, 6, 4, 3), activation, "cross_entropy", normalization)
    parameters = random_parameters(network)
    workspace = filled_workspace(network, 3, 4, label_smoothing=0.1)
    gradients = [np.empty((3, *shape)) for shape in network.layer_shapes]
    layers = network.layers(parameters)
    workspace.evaluate(layers, USED)
    for _ in workspace.backward(layers, gradients, 0.125, USED):
        pass
    gradient = np.concatenate([each.reshape(3, -1) for each in gradients], axis=1)
    assert gradient.shape[1] == network.num_trainable

    def total_loss(shifted):
        workspace.evaluate(network.layers(shifted), USED)
        return 0.125 * (workspace.losses * USED).sum(axis=1)

    step = 1e-5
    for index in range(network.num_trainable):
        unit = np.zeros_like(parameters)
        unit[index] = step
        slope = (total_loss(parameters + unit) - total_loss(parameters - unit)) / (2 * step)
        np.testing.assert_allclose(gradient[:, index], slope, rtol=1e-5, atol=1e-8)
    assert not gradient[2].any()


@pytest.mark.parametrize("normalization", ["batch", "layer"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("num_samples", [1, 2, 5, 16])
def test_a_virtual_rank_does_not_feel_its_neighbours(normalization, dtype, num_samples):
    network = MLP((13, 11, 1, 7), "relu", "cross_entropy", normalization)
    generator = np.random.default_rng(2)
    layers = network.layers(random_parameters(network).astype(dtype))
    x = generator.standard_normal((3, num_samples, 13)).astype(dtype)
    y = generator.integers(0, 7, (3, num_samples))
    used = generator.random((3, num_samples)) < 0.7

    def run(block):
        workspace = Workspace(network, len(block), num_samples, dtype)
        workspace.inputs[...] = x[block]
        workspace.labels[...] = y[block]
        workspace.evaluate(layers, used[block])
        numbers = [workspace.losses.copy()]
        statistics = np.empty((len(block), network.num_statistics), dtype)
        workspace.write_statistics(np.full((len(block), 1), 0.2), statistics)
        numbers.append(statistics)
        gradients = [np.empty((len(block), *shape), dtype) for shape in network.layer_shapes]
        for _ in workspace.backward(layers, gradients, 1.0 / 7.0, used[block]):
            pass
        return [*numbers, *gradients]

    together = run([0, 1, 2])
    for virtual_rank in range(3):
        for joint, single in zip(together, run([virtual_rank]), strict=True):
            assert joint[virtual_rank].tobytes() == single[0].tobytes()


def test_the_statistics_of_a_step_are_weighted_by_samples_and_corrected():
    network = MLP((2, 1, 2), "relu", "cross_entropy", "batch")
    workspace = Workspace(network, 3, 3, np.float64)
    layers = network.layers(np.array([1.0, 0.0, 0.0, 1.0, *np.zeros(6)]))
    workspace.inputs[...] = 0
    workspace.inputs[0, :, 0] = 1, 2, 6  # mean 3, variance ((-2)**2 + 1 + 3**2) / 2 = 7
    workspace.inputs[1, :, 0] = 5, 9, 0  # one used: mean 5, no variance
    workspace.labels[...] = 0
    used = np.array([[True, True, True], [True, False, False], [False, False, False]])
    workspace.evaluate(layers, used)
    statistics = np.empty((3, 2))
    workspace.write_statistics(np.array([[0.75], [0.25], [0.0]]), statistics)
    np.testing.assert_allclose(statistics, [[3 * 0.75, 7 * 0.75], [5 * 0.25, 0], [0, 0]])


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_padding_stays_finite_in_a_deep_network(activation):
    # Of one sample and of none, the variance is 0: each layer would make padding 316 times larger.
    network = MLP((5, *[6] * 20, 3), activation, "cross_entropy", "batch")
    layers = network.layers(random_parameters(network).astype("f4"))
    workspace = Workspace(network, 3, 4, np.float32)
    workspace.inputs[...] = np.random.default_rng(0).standard_normal(workspace.inputs.shape)
    workspace.labels[...] = 0
    used = np.array([[True] * 4, [True, False, False, False], [False] * 4])
    gradients = [np.empty((3, *shape), np.float32) for shape in network.layer_shapes]
    workspace.evaluate(layers, used)
    assert np.isfinite(workspace.losses).all()
    for index in workspace.backward(layers, gradients, 1.0, used):
        assert np.isfinite(gradients[index]).all()
        assert not gradients[index][2].any()
    statistics = np.empty((3, network.num_statistics), np.float32)
    workspace.write_statistics(np.array([[0.8], [0.2], [0.0]]), statistics)
    assert np.isfinite(statistics).all()


def test_folded_layers_do_what_normalized_ones_do_with_the_running_statistics():
    generator = np.random.default_rng(3)
    layer = generator.standard_normal((6, 3))
    running = np.stack([generator.standard_normal(3), generator.random(3)])
    a = generator.standard_normal((10, 4))
    weights, bias, gain = layer[:-2], layer[-2], layer[-1]
    expected = gain * (a @ weights - running[0]) / np.sqrt(running[1] + EPSILON) + bias
    folded = fold(layer, running)
    np.testing.assert_allclose(a @ folded[:-1] + folded[-1], expected, rtol=1e-12)


def test_a_network_evaluates_with_the_statistics_that_it_was_trained_with():
    # With the batch's own (uncorrected) statistics as the running ones, both modes agree.
    network = MLP((5, 6, 4, 3), "gelu", "cross_entropy", "batch")
    parameters = random_parameters(network)
    training = filled_workspace(network, 1, 8)
    training.evaluate(network.layers(parameters))
    corrected = np.empty((1, network.num_statistics))
    training.write_statistics(np.ones((1, 1)), corrected)
    for own, (mean, variance) in zip(
        network.statistics(parameters), network.statistics(corrected[0]), strict=True
    ):
        own[...] = mean, variance * 7 / 8
    evaluating = filled_workspace(network.evaluated, 1, 8)
    evaluating.evaluate(network.evaluated_layers(parameters))
    np.testing.assert_allclose(evaluating.losses, training.losses, rtol=1e-10)


def test_statistics_lie_behind_what_is_trained():
    network = MLP((3, 2, 4, 5), "relu", "cross_entropy", "batch")
    assert network.layer_shapes == [(5, 2), (4, 4), (5, 5)]
    assert network.weight_slices == [slice(0, 6), slice(10, 18), slice(26, 46)]
    assert (network.num_trainable, network.num_statistics) == (51, 12)
    parameters = np.arange(network.num_parameters)
    first, second = network.statistics(parameters)
    np.testing.assert_array_equal(first, [[51, 52], [53, 54]])
    np.testing.assert_array_equal(second, [[55, 56, 57, 58], [59, 60, 61, 62]])
