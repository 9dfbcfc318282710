"""Every peer trains the same network as Lockstep: the same parameters come out."""

import sys
from dataclasses import replace
from itertools import count

import numpy as np
import pytest

from lockstep.bench.case import Case, steps_only
from lockstep.bench.made_up import made_up_dataset
from lockstep.bench.peers.peer import PEERS, Peer, UnavailableError, packages, peers_named
from lockstep.bench.peers.per_sample import PerSample
from lockstep.bench.peers.task import Samples, Task
from lockstep.config import Optimization
from lockstep.errors import UserError
from lockstep.parallel.single import SingleProcess
from lockstep.streams import Purpose, philox
from lockstep.train.observers import Observer
from lockstep.train.requests import Requests
from lockstep.train.run import resolve
from lockstep.train.trainer import Trainer

# PyTorch's compiler uses what PyTorch itself would rather not.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

SGD = Optimization(optimizer="sgd", schedule="constant", learning_rate=0.05)
ADAMW = Optimization(optimizer="adamw", schedule="cosine", learning_rate=0.01, weight_decay=0.5)
NUM_ROWS = 8192
BY_NAME = {peer.name: peer for peer in PEERS}


@pytest.fixture(scope="module")
def dataset():
    with made_up_dataset() as dataset:
        yield dataset


@pytest.fixture(scope="module")
def samples(dataset):
    return Samples.read(dataset, "train")


def configuration(optimization=SGD, activation="relu", global_batch_size=2048, epochs=20):
    config = steps_only(Case((12, 11), global_batch_size, activation=activation), optimization)
    return resolve(replace(config, training=replace(config.training, epochs=epochs)), world_size=1)


def lockstep_layers(config, dataset, num_steps):
    trainer = Trainer(config, dataset, SingleProcess(), Observer(), Requests(stop_after=num_steps))
    trainer.train()
    return trainer.network.layers(trainer.parameters)


def lockstep_orders(config):
    """Return the order of each epoch's rows: they are sorted by counter-based random numbers."""
    keys = (
        philox(config.training.seed, Purpose.SAMPLE_ORDER, epoch, 0).random_raw(NUM_ROWS)
        for epoch in count(1)
    )
    return (np.argsort(numbers, kind="stable") for numbers in keys)


def begin(name, task):
    package = BY_NAME[name].package
    if package in {"torch", "jax"}:
        pytest.importorskip(package, reason=f"{package} is not installed, nor needed")
    return BY_NAME[name].start(task)


def assert_same_steps(name, config, dataset, samples, num_steps):
    orders = lockstep_orders(config)
    task = replace(Task.of(config, dataset, samples), next_order=lambda: next(orders))
    training = begin(name, task)
    training.train(num_steps // 2)
    training.train(num_steps // 2)
    expected = lockstep_layers(config, dataset, num_steps)
    for start, layer, own in zip(task.initial_layers(), training.layers(), expected, strict=True):
        # What differs by rounding alone is small beside what the steps have changed.
        tolerance = 1e-3 * np.abs(own - start).max()
        assert tolerance > 0
        np.testing.assert_allclose(layer, own, rtol=1e-3, atol=tolerance)


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("name", ["PyTorch-eager", "PyTorch-compiled", "JAX", "per-sample"])
def test_peers_take_the_same_steps(name, activation, dataset, samples):
    # Four epochs of four steps.
    config = configuration(activation=activation)
    assert_same_steps(name, config, dataset, samples, num_steps=16)


@pytest.mark.parametrize("name", ["PyTorch-eager", "JAX"])
def test_peers_take_the_same_steps_with_adamw(name, dataset, samples):
    # All epochs, so that the learning rate falls to zero.
    assert_same_steps(name, configuration(ADAMW, epochs=4), dataset, samples, num_steps=16)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_scikit_learn_takes_the_same_steps(optimizer, activation, dataset, samples):
    # It has orders of its own, which make no difference where all rows are one batch; Adam without
    # decay; and adds epsilon at another place, so make it vanish.
    optimization = replace(SGD if optimizer == "sgd" else ADAMW, weight_decay=0.0, epsilon=1e-20)
    config = configuration(optimization, activation, global_batch_size=NUM_ROWS, epochs=10)
    assert_same_steps("scikit-learn", config, dataset, samples, num_steps=10)


@pytest.mark.parametrize("name", BY_NAME)
def test_peers_learn_and_count_what_is_correct(name, dataset, samples):
    # So few rows can be learned by heart, random as they are.
    few = Samples(samples.x[:32], samples.y[:32])
    config = configuration(activation="sigmoid", global_batch_size=4)
    training = begin(name, Task.of(config, dataset, few))
    training.train(1200)
    assert training.num_correct(few) > 24
    expected = count_correct(training.layers(), samples)
    assert training.num_correct(samples) == pytest.approx(expected, abs=2)


def count_correct(layers, samples):
    a = samples.x.astype(np.float64)
    for layer in layers[:-1]:
        a = 1 / (1 + np.exp(-(a @ layer[:-1] + layer[-1])))
    return np.count_nonzero((a @ layers[-1][:-1] + layers[-1][-1]).argmax(1) == samples.y)


def test_batches_take_every_row_once_an_epoch(dataset, samples):
    task = Task.of(configuration(global_batch_size=1000), dataset, samples)
    assert task.steps_per_epoch == 8
    epochs = list(task.batches(19))
    assert [epoch.shape for epoch in epochs] == [(8, 1000), (8, 1000), (3, 1000)]
    for epoch in epochs:
        assert len(np.unique(epoch)) == epoch.size
    # Another order in every epoch, and the same ones in every repetition.
    assert (epochs[0] != epochs[1]).any()
    again = Task.of(configuration(global_batch_size=1000), dataset, samples).batches(19)
    assert all((a == b).all() for a, b in zip(epochs, again, strict=True))


def test_all_begin_with_the_weights_of_lockstep(dataset, samples):
    config = configuration()
    trainer = Trainer(config, dataset, SingleProcess(), Observer())
    task = Task.of(config, dataset, samples)
    expected = trainer.network.layers(trainer.parameters)
    for layer, own in zip(task.initial_layers(), expected, strict=True):
        np.testing.assert_array_equal(layer, own)


def test_samples_are_scaled(dataset, samples):
    x, y = dataset.read("train", 0, 3)
    np.testing.assert_allclose(samples.x[:3], x / 255, rtol=1e-6)
    assert samples.y[:3].tolist() == y.tolist()
    assert (samples.x.dtype, samples.y.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("package", ["torch", "jax"])
def test_a_peer_that_is_not_installed_says_so(package, monkeypatch, dataset, samples):
    task = Task.of(configuration(), dataset, samples)
    for name in [name for name in sys.modules if name.startswith("lockstep.bench.peers.")]:
        if name.endswith(("pytorch", "jax_scan")):
            monkeypatch.delitem(sys.modules, name)
    # Importing it fails now, whether it is there or not.
    monkeypatch.setitem(sys.modules, package, None)
    for peer in PEERS:
        if peer.package == package:
            with pytest.raises(UnavailableError, match=f"{package} is not installed: pip install"):
                peer.start(task)


def test_a_missing_compiler_is_told(monkeypatch, dataset, samples, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed, nor needed")
    inductor = pytest.importorskip("torch._inductor.config")
    monkeypatch.setattr(inductor.cpp, "cxx", ("/nowhere/g++",))
    # What has been compiled before needs no compiler.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    task = Task.of(configuration(global_batch_size=17), dataset, samples)
    with pytest.raises(UnavailableError, match=r"doesn't work here: .*C\+\+ compiler"):
        BY_NAME["PyTorch-compiled"].start(task)
    torch.compiler.reset()


def test_the_loop_over_samples_leaves_out_what_takes_too_long(dataset, samples):
    config = steps_only(Case((2500, 2000), 1024), SGD)
    with pytest.raises(UnavailableError, match="a step of 784-2500-2000-10 would take"):
        PerSample(Task.of(config, dataset, samples))


def test_peers_are_chosen_by_name():
    assert peers_named(None) == list(PEERS)
    # In the order of the table, whatever the order they are asked for in.
    assert [peer.name for peer in peers_named("jax, PyTorch-Eager")] == ["PyTorch-eager", "JAX"]
    with pytest.raises(UserError, match="no peer 'pytorch-eagr'; did you mean pytorch-eager"):
        peers_named("jax,pytorch-eagr")
    with pytest.raises(UserError, match=r"no peer 'jax'\. There are: per-sample"):
        peers_named("jax", [BY_NAME["per-sample"]])


def test_packages_are_named_once():
    assert packages(PEERS) == ["torch", "scikit-learn", "jax", "numpy"]
    assert packages([Peer("a", "x", ""), Peer("b", "x", "")]) == ["x"]
