"""What a training does to the gradient before a step, and to the parameters after it."""

import numpy as np
import pytest

from lockstep.bench.made_up import made_up_dataset
from lockstep.config import Config, Network, Optimization, Training
from lockstep.errors import UserError
from lockstep.parallel.single import SingleProcess
from lockstep.train.observers import Observer
from lockstep.train.requests import Requests
from lockstep.train.run import resolve
from lockstep.train.trainer import Trainer

LEARNING_RATE = 0.5


def configuration(**optimization):
    return Config(
        network=Network(hidden_widths=(12, 7)),
        optimization=Optimization(
            **{
                "optimizer": "sgd",
                "learning_rate": LEARNING_RATE,
                "schedule": "constant",
                **optimization,
            }
        ),
        training=Training(epochs=100, global_batch_size=64, virtual_ranks=2),
    )


def train(num_steps, **optimization):
    """Return network, parameters before and after, and the last step's learning rate."""
    rates = []

    class Watch(Observer):
        def epoch_done(self, result):
            rates.append(result.lr)

    with made_up_dataset(num_rows=64) as dataset:
        config = resolve(configuration(**optimization), 1)
        requests = Requests(stop_after=num_steps)
        trainer = Trainer(config, dataset, SingleProcess(), Watch(), requests)
        before = trainer.parameters.copy()
        trainer.train()
    return trainer.network, before, trainer.parameters, rates[-1]


def test_l1_and_l2_pull_the_weights_towards_zero_and_spare_the_biases():
    network, before, plain, _ = train(1)
    *_, penalized, _ = train(1, l1=0.02, l2=0.1)
    expected = np.zeros_like(before)
    for where in network.weight_slices:
        weights = before[where]
        expected[where] = LEARNING_RATE * (0.02 * np.sign(weights) + 0.1 * weights)
    np.testing.assert_allclose(plain - penalized, expected, atol=1e-6)


def test_weights_into_hidden_units_stay_within_the_norm():
    network, _, free, _ = train(5)
    *_, limited, _ = train(5, max_norm=0.7)
    fan_ins = network.widths[:-1]

    def lengths(parameters):
        layers = zip(fan_ins, network.layers(parameters), strict=True)
        return [np.linalg.norm(layer[:fan_in], axis=0) for fan_in, layer in layers]

    assert all((each > 0.7).any() for each in lengths(free))
    *hidden, output = lengths(limited)
    assert all(each.max() < 0.7 + 1e-6 for each in hidden)
    # That of the output layer is free.
    assert (output > 0.7).any()


def test_max_norm_leaves_biases_as_they_are():
    network, _, free, _ = train(1)
    *_, limited, _ = train(1, max_norm=0.1)
    for a, b in zip(network.layers(free), network.layers(limited), strict=True):
        assert np.array_equal(a[-1], b[-1])


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1), ("linear", 4), ("sqrt", 2)])
def test_the_learning_rate_is_scaled_from_start_to_end(scaling, factor):
    # A step for each epoch; the cosine is half way after 50 of 100.
    *_, rate = train(
        51, learning_rate=0.1, final_learning_rate=0.02, schedule="cosine",
        learning_rate_scaling=scaling, reference_batch_size=16,
    )  # fmt: skip
    assert rate == pytest.approx(factor * (0.1 + 0.02) / 2)


def test_decay_is_checked_with_the_scaled_learning_rate():
    options = {"optimizer": "adamw", "learning_rate": 0.2, "weight_decay": 2.0}
    resolve(configuration(**options), 1)
    with pytest.raises(UserError, match=r"= 0.8 \(after linear scaling\) \* 2.0 is not below 1"):
        resolve(
            configuration(**options, learning_rate_scaling="linear", reference_batch_size=16), 1
        )
