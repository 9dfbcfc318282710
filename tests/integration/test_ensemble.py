"""`lockstep evaluate` and `lockstep predict` with several runs, against other libraries."""

import csv
import io
import json
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss
from sklearn.metrics import precision_recall_fscore_support as scores_of

from lockstep.cli import cli
from lockstep.config import load_config
from lockstep.data.convert import ConvertOptions, convert
from lockstep.data.dataset_file import DatasetFile
from lockstep.errors import UserError
from lockstep.parallel.single import SingleProcess
from lockstep.storage.run_folder import RunFolder
from lockstep.train.ensemble import evaluate_ensemble
from lockstep.train.run import evaluate_run, run_training

# Networks of all kinds.
RUNS = {
    "relu": {"hidden_widths": "24", "learning_rate": "0.05"},
    "tanh": {"hidden_widths": "16,12", "activation": "tanh", "dtype": "float64"},
    "wide": {"hidden_widths": "40", "virtual_ranks": "3", "normalization": "batch"},
    "quadratic": {"hidden_widths": "20", "loss": "quadratic", "learning_rate": "1"},
    "quadratic-2": {"hidden_widths": "20", "loss": "quadratic", "learning_rate": "1", "seed": "2"},
}
ENSEMBLE = ("relu", "tanh", "wide")


@pytest.fixture(scope="module")
def folder(digits_file, tmp_path_factory):
    """Return where the runs are."""
    results = tmp_path_factory.mktemp("results")
    for name, fields in RUNS.items():
        config = load_config(None, {"epochs": "2", "data": str(digits_file)} | fields)
        run_training(config, SingleProcess(), results, name, quiet=True)
    return results


@pytest.fixture
def run(folder, monkeypatch):
    """Run a command in the folder of the runs, and return what it prints."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        words = [str(word) for word in arguments]
        return CliRunner().invoke(cli, words, catch_exceptions=False).output

    return run


@pytest.fixture
def refused(run):
    """Run a command that is refused, and return why."""

    def refused(*arguments):
        with pytest.raises(UserError) as error:
            run(*arguments)
        return str(error.value)

    return refused


def table_of(text):
    """Return classes and probabilities of what `predict --csv` has printed."""
    header, *rows = csv.reader(io.StringIO(text))
    assert header[:2] == ["source", "class"]
    return [row[1] for row in rows], np.array([row[2:] for row in rows], np.float64)


def test_predict_averages_the_probabilities_of_the_runs(run, digits_file):
    outputs = [table_of(run("predict", name, digits_file, "--csv"))[1] for name in ENSEMBLE]
    text = run("predict", *ENSEMBLE, digits_file, "--csv")
    classes, found = table_of(text)
    assert found.tolist() == ((outputs[0] + outputs[1] + outputs[2]) / 3).tolist()
    assert classes == [str(digit) for digit in found.argmax(axis=1)]
    # No run alone gives that.
    for each in outputs:
        assert (each.argmax(axis=1) != found.argmax(axis=1)).any()
    entries = json.loads(run("predict", *ENSEMBLE, digits_file, "--json"))
    assert [list(entry["probabilities"].values()) for entry in entries] == found.tolist()
    assert [entry["class"] for entry in entries] == classes
    lines = run("predict", *ENSEMBLE, digits_file).splitlines()[1:]
    assert [line.split()[1:3] for line in lines] == [
        [name, f"{row.max():.4f}"] for name, row in zip(classes, found, strict=True)
    ]


@pytest.mark.parametrize("split", ["test", "validation"])
def test_evaluate_scores_the_mean_as_scikit_learn_does(run, digits_file, split):
    with DatasetFile.open(digits_file) as dataset:
        _, labels = dataset.read(split, 0, 180)
    predict = ["predict", *ENSEMBLE, digits_file, "--csv", "--split", split]
    _, mean = table_of(run(*predict))
    guesses = mean.argmax(axis=1)
    told = json.loads(run("evaluate", *ENSEMBLE, "--json", "--split", split))
    assert told["split"] == split
    assert told["total"] == 180
    assert told["correct"] == accuracy_score(labels, guesses, normalize=False)
    assert told["accuracy"] == accuracy_score(labels, guesses)
    # It insists on sums of 1, more than float32 can give.
    expected = log_loss(labels, mean / mean.sum(axis=1, keepdims=True))
    assert told["loss"] == pytest.approx(expected, rel=1e-5)
    assert told["confusion_matrix"] == confusion_matrix(labels, guesses).tolist()
    by_class = np.array(scores_of(labels, guesses, zero_division=0.0)).T
    keys = ("precision", "recall", "f1", "support")
    for line, expected in zip(told["per_class"], by_class, strict=True):
        assert [line[key] for key in keys] == pytest.approx(expected)
    assert told["macro_f1"] == pytest.approx(by_class[:, 2].mean())


def test_evaluate_tells_each_run_s_own_score_too(run, folder):
    told = json.loads(run("evaluate", *ENSEMBLE, "--json"))
    text = run("evaluate", *ENSEMBLE).splitlines()
    for name, member, line in zip(ENSEMBLE, told["members"], text[-4:], strict=False):
        alone = evaluate_run(RunFolder(folder / name), None, "test", SingleProcess())
        same = ("accuracy", "correct", "total")
        assert {key: member[key] for key in same} == {key: alone[key] for key in same}
        # Divided as the ensemble is.
        assert member["loss"] == pytest.approx(alone["loss"], rel=1e-6)
        assert member["run"] == name
        errors = 180 - alone["correct"]
        assert line.startswith(f"{name:4}  {alone['accuracy']:.2%} ({alone['correct']} / 180), ")
        assert line.endswith(f", {errors} errors, loss {alone['loss']:.4f}")
    assert text[-1] == (
        f"Test accuracy of the mean of 3 runs: {told['accuracy']:.2%} ({told['correct']} / 180), "
        f"{180 - told['correct']} errors, loss {told['loss']:.4f}"
    )
    assert run("evaluate", "relu").splitlines()[-1].startswith("Test accuracy: ")


def test_copies_of_a_run_average_to_that_run(run, folder, digits_file, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(folder / "relu", tmp_path / name)
    copies = [tmp_path / "a", "relu", tmp_path / "b"]
    alone = json.loads(run("evaluate", "relu", "--json"))
    told = json.loads(run("evaluate", *copies, "--json"))
    assert [member["correct"] for member in told.pop("members")] == 3 * [alone["correct"]]
    assert told.pop("loss") == pytest.approx(alone.pop("loss"), rel=1e-6)
    assert told == alone
    # Of two, even to the bit: nothing is rounded.
    words = [digits_file, "--csv"]
    assert run("predict", *copies[:2], *words) == run("predict", "relu", *words)


def test_quadratic_runs_are_scored_by_the_quadratic_loss_of_their_mean(run, digits_file):
    with DatasetFile.open(digits_file) as dataset:
        _, labels = dataset.read("test", 0, 180)
    runs = ["quadratic", "quadratic-2"]
    _, mean = table_of(run("predict", *runs, digits_file, "--csv"))
    told = json.loads(run("evaluate", *runs, "--json"))
    loss = ((mean - np.eye(10)[labels]) ** 2).sum(axis=1).mean() / 2
    assert told["loss"] == pytest.approx(loss, rel=1e-5)
    assert told["correct"] == (mean.argmax(axis=1) == labels).sum()


def test_rows_that_are_read_block_by_block_give_the_same_bits(run, folder, tmp_path, monkeypatch):
    expected = json.loads(run("evaluate", *ENSEMBLE, "--json", "--split", "train"))
    for name in ENSEMBLE:
        shutil.copytree(folder / name, tmp_path / name)
        config = tmp_path / name / "config.toml"
        text = config.read_text()
        before = next(line for line in text.splitlines() if line.startswith("memory_budget_mb"))
        config.write_text(text.replace(before, "memory_budget_mb = 0.1"))
    counts, original = [], DatasetFile.read

    def read(dataset, split, start, stop, out=None):
        counts.append(stop - start)
        return original(dataset, split, start, stop, out)

    monkeypatch.setattr(DatasetFile, "read", read)
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(cli, ["evaluate", *ENSEMBLE, "--json", "--split", "train"])
    assert json.loads(told.output) == expected
    assert sum(counts) == 3 * expected["total"]
    assert len(counts) > 6


# ------------------------------------------------------------------------------ what won't do


@pytest.fixture
def other(folder, tmp_path):
    """Train a run on other data, and return its folder."""

    def other(name, text, **options):
        source, data = tmp_path / f"{name}.csv", tmp_path / f"{name}.h5"
        source.write_text(text)
        convert(str(source), data, ConvertOptions(**options))
        fields = {"epochs": "1", "global_batch_size": "4", "data": str(data)}
        run_training(load_config(None, fields), SingleProcess(), tmp_path, name, quiet=True)
        return tmp_path / name

    return other


def table(num_features, classes):
    """Return a table with six rows of each class."""
    rows = [
        [str(6 * place + row + column) for column in range(num_features)] + [name]
        for place, name in enumerate(classes)
        for row in range(6)
    ]
    return "".join(",".join(row) + "\n" for row in rows)


def test_a_run_named_twice(refused, folder, digits_file):
    expected = f"relu and {folder}/relu are the same run: name each run once."
    assert refused("evaluate", "relu", "tanh", folder / "relu") == expected
    assert "relu and relu are the same run" in refused("predict", "relu", "relu", digits_file)


def test_a_run_that_is_missing(refused, digits_file):
    message = "nowhere is no run folder: it holds no config.toml."
    assert message in refused("evaluate", "relu", "nowhere")
    assert message in refused("predict", "nowhere", digits_file)
    expected = "nowhere doesn't exist: name one or more runs, and then images,"
    assert expected in refused("predict", "relu", "nowhere", digits_file)


def test_a_folder_that_is_no_run(refused, tmp_path, digits_file):
    message = f"{tmp_path} is no run folder"
    assert message in refused("predict", "relu", tmp_path, digits_file)
    # Runs come first.
    assert f"{tmp_path} is no file" in refused("predict", "relu", digits_file, tmp_path)


def test_nothing_to_be_classified(refused):
    assert "name files after tanh, which are images" in refused("predict", "relu", "tanh")


def test_losses_that_don_t_mix(refused, digits_file):
    expected = (
        "relu and quadratic can't be averaged: their loss is cross_entropy and quadratic, and "
        "only the outputs of cross_entropy add up to 1. Average runs of the same loss."
    )
    assert refused("evaluate", "relu", "tanh", "quadratic") == expected
    assert refused("predict", "relu", "quadratic", digits_file) == expected


def test_samples_and_classes_that_differ(refused, other, digits_file):
    a = other("a", table(3, ["x", "y"]))
    b = other("b", table(3, ["x", "z"]))
    c = other("c", table(3, ["x", "y", "z"]))
    expected = f"relu and {a} can't be averaged: their samples are of shape (8, 8) and (3,)."
    assert refused("evaluate", "relu", a) == expected
    assert refused("predict", "relu", a, digits_file) == expected
    assert refused("evaluate", a, b) == f"{a} and {b} can't be averaged: their class 1 is y and z."
    assert refused("evaluate", a, c) == f"{a} and {c} can't be averaged: they have 2 and 3 classes."


def test_runs_on_different_data_need_to_be_told_which(refused, run, other):
    a = other("a", table(3, ["x", "y"]))
    b = other("b", table(3, ["x", "y"]), seed=3)
    message = f"{a} and {b} were trained on different data"
    assert refused("evaluate", a, b).startswith(message)
    data = a.with_suffix(".h5")
    told = json.loads(run("evaluate", a, b, "--data", data, "--json"))
    assert [member["run"] for member in told["members"]] == [str(a), str(b)]


def test_a_data_set_that_does_not_fit(other, folder, digits_file):
    a = other("a", table(3, ["x", "y"]))
    with pytest.raises(UserError, match=r"a.h5 doesn't fit the run"):
        evaluate_ensemble(
            [folder / "relu", folder / "tanh"], a.with_suffix(".h5"), "test", SingleProcess()
        )
