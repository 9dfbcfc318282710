import numpy as np
import pytest

from lockstep.bench import rounds
from lockstep.bench.case import Case
from lockstep.bench.made_up import made_up_dataset
from lockstep.bench.products import Products, Shape, shapes_of_step
from lockstep.bench.step_comparison import measure


class FakePeer:
    """Notes who trains how many steps, instead of training."""

    def __init__(self, name, log):
        self.name = name
        self._log = log

    def start(self, task):
        assert task.network.widths == (784, 8, 10)
        return self

    def train(self, num_steps):
        self._log.append((self.name, num_steps))


@pytest.fixture(scope="module")
def dataset():
    with made_up_dataset() as dataset:
        yield dataset


def test_all_take_turns_after_a_warm_up(dataset, absent_peer):
    log = []
    peers = [FakePeer("a", log), absent_peer, FakePeer("b", log)]
    measurement = measure(Case((8,), 32, num_steps=3), dataset, peers, num_rounds=2)
    # To warm up, and in two rounds.
    assert log == [("a", 3), ("b", 3)] * 3
    assert list(measurement.step_s) == ["products", "Lockstep", "a", "b"]
    assert all(len(rounds) == 2 for rounds in measurement.step_s.values())
    assert min(map(min, measurement.step_s.values())) > 0
    assert set(measurement.num_steps.values()) == {3}
    assert measurement.absent == {"absent": "it is away"}
    assert (measurement.network, measurement.num_parameters) == ("784-8-10", 785 * 8 + 9 * 10)
    assert measurement.num_flops == 2 * 32 * (2 * 784 * 8 + 3 * 8 * 10)


def test_a_turn_has_as_many_steps_as_fill_its_time(dataset, monkeypatch):
    monkeypatch.setattr(rounds, "TURN_S", 0.5)
    # Whatever is done for the first time is slow, since it is compiled, and one step alone too.
    seconds = iter([7.0, 0.02, 7.0, 0.01, 7.0])
    log = []

    def contestant(num_steps):
        log.append(num_steps)
        return next(seconds)

    assert rounds.warm_up(contestant, 0) == 50
    assert log == [1, 1, 25, 25, 50]
    assert rounds.warm_up(lambda _: 3.0, 0) == 1


def test_the_products_of_a_step():
    # 3-4-2 with five samples: no gradient by the inputs of the first layer.
    assert list(shapes_of_step((3, 4, 2), 5)) == [
        Shape(5, 3, 4), Shape(3, 5, 4),
        Shape(5, 4, 2), Shape(4, 5, 2), Shape(5, 2, 4),
    ]  # fmt: skip
    assert Shape(5, 3, 4).num_flops == 120
    assert Products((3, 4, 2), 5).num_flops == 480


def test_the_products_are_done_whatever_the_layout():
    products = Products((30, 20, 10), 16)
    shapes = {frozenset(out.shape) for _, _, out in products.products}
    assert shapes == {frozenset(s) for s in [(16, 20), (30, 20), (16, 10), (20, 10)]}
    for _, _, out in products.products:
        out[:] = np.nan
    products.train(1)
    for a, b, out in products.products:
        np.testing.assert_allclose(out, a.astype(float) @ b.astype(float), rtol=1e-5)
