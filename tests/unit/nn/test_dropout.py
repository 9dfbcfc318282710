"""Dropout: rates, addresses, and gradients under a fixed mask."""

import numpy as np
import pytest

from lockstep.nn.dropout import Dropout
from lockstep.nn.mlp import MLP, Workspace


def masks_of(virtual_ranks, step=3, seed=0, rates=(0.2, 0.0, 0.5)):
    dropout = Dropout(rates, (50, 40, 31), virtual_ranks, 20, seed, np.float32)
    dropout.draw(step)
    return dropout.masks


def test_masks_keep_what_the_rates_say_and_scale_it():
    dropout = Dropout((0.2, 0.0, 0.5), (500, 10, 301), range(2), 200, 0, np.float64)
    dropout.draw(0)
    first, nothing, last = dropout.masks
    assert nothing is None
    for mask, rate in ((first, 0.2), (last, 0.5)):
        assert (mask[:, :, -1] == 1).all()
        own = mask[:, :, :-1]
        kept = (own > 0).mean()
        # Five standard deviations.
        assert abs(kept - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / own.size)
        np.testing.assert_allclose(own[own > 0], 1 / (1 - rate), rtol=1e-4)
        # Neither rows nor columns are alike.
        assert (own[0, 0] != own[0, 1]).any()
        assert (own[0, :, 0] != own[0, :, 1]).any()
        assert (own[0] != own[1]).any()


def test_masks_follow_from_seed_step_and_virtual_rank_alone():
    together = masks_of(range(2, 5))
    for index, virtual_rank in enumerate(range(2, 5)):
        alone = masks_of(range(virtual_rank, virtual_rank + 1))
        for joint, single in zip(together, alone, strict=True):
            assert (joint is None) == (single is None)
            if joint is not None:
                np.testing.assert_array_equal(joint[index], single[0])
    for other in (masks_of(range(2, 5), step=4), masks_of(range(2, 5), seed=1)):
        assert (other[0] != together[0]).any()


def test_a_mask_is_drawn_anew_whatever_was_drawn_before():
    dropout = Dropout((0.5,), (40,), range(2), 8, 7, np.float32)
    dropout.draw(1)
    first = dropout.masks[0].copy()
    dropout.draw(2)
    assert (dropout.masks[0] != first).any()
    dropout.draw(1)
    np.testing.assert_array_equal(dropout.masks[0], first)


def test_nothing_is_drawn_without_rates():
    assert not Dropout((0.0, 0.0), (4, 5), range(2), 8, 0, np.float32).is_used
    assert Dropout((0.0, 0.1), (4, 5), range(2), 8, 0, np.float32).is_used


@pytest.mark.parametrize("normalization", ["none", "batch", "layer"])
@pytest.mark.parametrize("activation", ["relu", "sigmoid", "tanh", "gelu"])
def test_the_gradient_under_a_fixed_mask_agrees_with_central_differences(activation, normalization):
    network = MLP((5, 6, 4, 3), activation, "cross_entropy", normalization)
    parameters = np.random.default_rng(1).standard_normal(network.num_parameters)
    dropout = Dropout((0.3, 0.4, 0.2), network.widths[:-1], range(2), 4, 5, np.float64)
    dropout.draw(9)
    workspace = Workspace(network, 2, 4, np.float64, dropout.masks)
    generator = np.random.default_rng(0)
    x = generator.standard_normal(workspace.inputs.shape)
    workspace.labels[...] = generator.integers(0, 3, workspace.labels.shape)

    def total_loss(shifted):
        workspace.inputs[...] = x
        workspace.drop_inputs()
        workspace.evaluate(network.layers(shifted))
        return workspace.losses.sum(axis=1)

    total_loss(parameters)
    np.testing.assert_array_equal(workspace.inputs, x * dropout.masks[0][:, :, :-1])
    gradients = [np.empty((2, *shape)) for shape in network.layer_shapes]
    for _ in workspace.backward(network.layers(parameters), gradients, 1.0):
        pass
    gradient = np.concatenate([each.reshape(2, -1) for each in gradients], axis=1)
    step = 1e-5
    for index in range(network.num_trainable):
        unit = np.zeros_like(parameters)
        unit[index] = step
        slope = (total_loss(parameters + unit) - total_loss(parameters - unit)) / (2 * step)
        np.testing.assert_allclose(gradient[:, index], slope, rtol=1e-5, atol=1e-8)


def test_smoothed_labels_worked_by_hand():
    # Two classes, probabilities 1/4 and 3/4, smoothing 0.2: targets 0.9 and 0.1 for class 0.
    network = MLP((1, 2), "relu", "cross_entropy")
    workspace = Workspace(network, 1, 1, np.float64, label_smoothing=0.2)
    workspace.inputs[...] = 0
    workspace.labels[...] = 0
    layers = network.layers(np.array([0.0, 0.0, 0.0, np.log(3.0)]))
    workspace.evaluate(layers)
    assert workspace.losses.item() == pytest.approx(0.9 * np.log(4) + 0.1 * np.log(4 / 3))
    gradients = [np.empty((1, 2, 2))]
    for _ in workspace.backward(layers, gradients, 1.0):
        pass
    np.testing.assert_allclose(gradients[0][0, 1], [0.25 - 0.9, 0.75 - 0.1])


def test_smoothed_labels_of_the_quadratic_loss_worked_by_hand():
    # Both outputs are 1/2, and the targets 0.9 and 0.1 are 0.4 away; the sigmoid's slope is 1/4.
    network = MLP((1, 2), "relu", "quadratic")
    workspace = Workspace(network, 1, 1, np.float64, label_smoothing=0.2)
    workspace.inputs[...] = 0
    workspace.labels[...] = 0
    layers = network.layers(np.zeros(4))
    workspace.evaluate(layers)
    assert workspace.losses.item() == pytest.approx(0.5 * (0.4**2 + 0.4**2))
    gradients = [np.empty((1, 2, 2))]
    for _ in workspace.backward(layers, gradients, 1.0):
        pass
    np.testing.assert_allclose(gradients[0][0, 1], [-0.4 / 4, 0.4 / 4])
