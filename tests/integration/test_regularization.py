"""Trainings with regularization, averaging and accumulation, seen through what they leave."""

import numpy as np
import pytest

from lockstep.config import load_config
from lockstep.data.convert import ConvertOptions, convert
from lockstep.data.dataset_file import DatasetFile
from lockstep.errors import UserError
from lockstep.nn.normalization import EPSILON
from lockstep.parallel.single import SingleProcess
from lockstep.storage.checkpoint import CheckpointStore
from lockstep.storage.run_folder import read_arrays, read_json, read_json_lines
from lockstep.train.model import load_model, weights_sha256
from lockstep.train.observers import Observer
from lockstep.train.requests import Requests
from lockstep.train.run import evaluate_run, resolve, run_training
from lockstep.train.trainer import Trainer

# 12 steps in each epoch of 1437 rows.
BASIC = {
    "hidden_widths": "24,16", "global_batch_size": "120", "epochs": "2", "dtype": "float64",
    "learning_rate": "0.01",
}  # fmt: skip


@pytest.fixture
def train(tmp_path, digits_file):
    """Return a function that trains and returns run folder and checkpoints."""

    def run(name="run", stop_after=None, **options):
        config = load_config(None, BASIC | {"data": str(digits_file)} | options)
        folder = run_training(
            config, SingleProcess(), tmp_path, name, Requests(stop_after), quiet=True
        ).folder
        return folder, CheckpointStore(folder.checkpoints)

    return run


def arrays_of(store, which="latest"):
    return store.load(which).arrays


@pytest.mark.parametrize("accumulation", ["2", "3", "40"])
def test_a_step_in_parts_is_the_step_in_one_up_to_rounding(train, accumulation):
    # One virtual rank takes its rows in the same order, whatever the parts are.
    _, whole = train("whole")
    _, parts = train("parts", accumulation=accumulation)
    expected, found = arrays_of(whole), arrays_of(parts)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-7, atol=1e-9)


class Trajectory(Observer):
    """Keeps the parameters after every step."""

    def __init__(self):
        self.trainer, self.steps = None, []

    def step_done(self):
        self.steps.append(self.trainer.parameters.copy())


@pytest.mark.parametrize(("kind", "first"), [("last", 12), ("exponential", 0)])
def test_averages_are_those_of_the_weights_after_each_step(digits_file, kind, first):
    # Every step is taken in where an epoch has fewer than 64; with so long a time constant, an
    # exponential average is a plain mean of all.
    options = {"averaging": kind, "averaging_epochs": "1" if kind == "last" else "50"}
    config = resolve(load_config(None, BASIC | {"data": str(digits_file)} | options), 1)
    observer = Trajectory()
    with DatasetFile.open(digits_file) as dataset:
        observer.trainer = Trainer(config, dataset, SingleProcess(), observer)
        observer.trainer.train()
        assert len(observer.steps) == 24
        average = observer.trainer.snapshot().average
    np.testing.assert_allclose(average, np.mean(observer.steps[first:], axis=0), rtol=1e-10)
    assert not np.allclose(average, observer.steps[-1], rtol=1e-3)


def test_the_average_is_evaluated_tested_and_what_a_checkpoint_predicts_with(train):
    folder, store = train(averaging="last", tested_weights="last")
    found = arrays_of(store)
    model = load_model(store.load("latest"))
    np.testing.assert_array_equal(
        model.network.layers(model.parameters)[0][:-1], found["average.0.weight"]
    )
    summary = read_json(folder.summary)
    assert summary["tested_weights_sha256"] == weights_sha256(model.parameters)
    assert summary["weights_sha256"] != summary["tested_weights_sha256"]
    last_line = list(read_json_lines(folder.metrics))[-1]
    scored = evaluate_run(folder, None, "validation", SingleProcess())
    assert (scored["correct"], scored["loss"]) == (last_line["val_correct"], last_line["val_loss"])


def test_averaging_leaves_the_training_itself_as_it_is(train):
    _, plain = train("plain")
    _, averaged = train("averaged", averaging="exponential")
    found = arrays_of(averaged)
    for name, values in arrays_of(plain).items():
        if name.startswith(("layers.", "optimizer.")):
            np.testing.assert_array_equal(found[name], values)


def test_batch_normalization_is_evaluated_with_its_running_statistics(train, digits_file):
    folder, store = train(normalization="batch", virtual_ranks="3", activation="tanh")
    arrays = arrays_of(store, "best")
    with DatasetFile.open(digits_file) as dataset:
        x, _ = dataset.read("validation", 0, 50)
    a = x.reshape(50, -1) * arrays["input.scale"] + arrays["input.offset"]
    for layer in ("layers.0", "layers.1"):
        z = a @ arrays[f"{layer}.weight"]
        deviation = np.sqrt(arrays[f"{layer}.running_variance"] + EPSILON)
        normalized = (z - arrays[f"{layer}.running_mean"]) / deviation
        a = np.tanh(normalized * arrays[f"{layer}.gain"] + arrays[f"{layer}.bias"])
    z = a @ arrays["layers.2.weight"] + arrays["layers.2.bias"]
    expected = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    model = load_model(store.load("best"))
    np.testing.assert_allclose(
        model.probabilities(x.reshape(50, -1)), expected, rtol=1e-9, atol=1e-12
    )
    assert read_arrays(folder.figures)["first_layer.weight"].shape == (24, 64)
    # They have moved from where they began, to what the layers really give.
    assert abs(arrays["layers.0.running_mean"]).max() > 0.1
    assert (arrays["layers.0.running_variance"] > 0).all()


def test_no_weights_into_a_hidden_unit_are_longer_than_allowed(train):
    _, store = train(max_norm="0.8")
    arrays = arrays_of(store)
    for layer in ("layers.0.weight", "layers.1.weight"):
        lengths = np.linalg.norm(arrays[layer], axis=0)
        assert lengths.max() <= 0.8 + 1e-9
        assert (lengths > 0.8 - 1e-9).any()
    assert np.linalg.norm(arrays["layers.2.weight"], axis=0).max() > 0.8


def test_another_seed_drops_and_deforms_otherwise(train):
    random = {"dropout": "0.5", "rotation": "20", "epochs": "1"}
    _, store = train("one", **random)
    _, other = train("two", seed="1", **random)
    _, again = train("three", **random)
    weights = [arrays_of(each)["layers.0.weight"] for each in (store, other, again)]
    assert not np.array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(weights[0], weights[2])


def test_a_patient_run_is_scored_on_data_without_a_validation_split(train, tmp_path):
    folder, _ = train(patience="1", epochs="1")
    convert("digits", tmp_path / "other.h5", ConvertOptions(validation=0))
    scored = evaluate_run(folder, tmp_path / "other.h5", "test", SingleProcess())
    assert scored["total"] == 180


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dropout": "0.1,0.2,0.3"}, "dropout has 3 numbers, but hidden_widths has 2"),
        ({"accumulation": "7"}, "global_batch_size = 120 can't be divided into accumulation = 7"),
        (
            {"accumulation": "60", "virtual_ranks": "3"},
            "has 2 samples, less than virtual_ranks = 3",
        ),
        (
            {"accumulation": "24", "virtual_ranks": "3", "normalization": "batch"},
            "one alone becomes zero, and there are 5 of virtual_ranks = 3 at a time",
        ),
    ],
)
def test_what_does_not_fit_together_is_told(train, tmp_path, options, words):
    with pytest.raises(UserError) as error:
        train(**options)
    assert words in str(error.value)
    assert not (tmp_path / "run").exists()
