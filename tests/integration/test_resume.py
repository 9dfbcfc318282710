"""Stopped runs that go on: with the same bits, or with one message that says why not."""

import json
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from lockstep.config import load_config
from lockstep.data.convert import ConvertOptions, convert
from lockstep.parallel.single import SingleProcess
from lockstep.storage.run_folder import RunFolder, read_json, read_json_lines
from lockstep.train.requests import Requests
from lockstep.train.run import resume_training, run_training

PROGRAMS = Path(__file__).parents[1] / "faults" / "programs"
STOP_AFTER, WAIT_AT_STEP = PROGRAMS / "stop_after.py", PROGRAMS / "wait_at_step.py"
# 45 steps of 1437 rows in each epoch.
BASIC = {"virtual_ranks": "4", "hidden_widths": "24", "global_batch_size": "32", "epochs": "4"}
CONFIGURATIONS = {
    "adamw": BASIC | {"checkpoint_every_steps": "10"},
    # The whole gradient is on all ranks here.
    "traced": BASIC | {"trace": "true", "clip_norm": "0.5", "optimizer": "adam"},
    "nesterov": BASIC | {
        "optimizer": "nesterov", "learning_rate": "0.02", "schedule": "one_cycle",
        "dtype": "float64", "tested_weights": "last", "l2": "0.001",
    },
    "sgd": BASIC | {"optimizer": "sgd", "learning_rate": "0.1", "schedule": "constant"},
    "regularized": BASIC | {
        "normalization": "batch", "dropout": "0.3", "input_dropout": "0.1",
        "label_smoothing": "0.1", "accumulation": "4", "averaging": "exponential",
        "max_norm": "2", "rotation": "10", "elastic_strength": "5", "erasing": "0.2",
        "optimizer": "lamb", "learning_rate": "0.02",
    },
    # Early on, a large rate gives its best score by chance and does not find it again.
    "impatient": BASIC | {
        "epochs": "40", "patience": "6", "learning_rate": "0.06", "schedule": "constant",
    },
}  # fmt: skip


def options_of(name, data):
    return CONFIGURATIONS[name] | {"data": str(data)}


def words(options):
    return [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]


def train(folder, options, stop_after=None):
    """Train in this process and return the run folder."""
    config = load_config(None, options)
    return run_training(
        config, SingleProcess(), folder, "run", Requests(stop_after)
    ).folder.path  # fmt: skip


def resume(path, stop_after=None, **options):
    """Go on in this process and return whether the run is done."""
    return resume_training(path, options, SingleProcess(), Requests(stop_after)).is_done


@pytest.fixture(scope="module")
def uninterrupted(digits_file, tmp_path_factory, left_behind):
    """Return a function that gives what a configuration leaves behind without a stop."""
    known = {}

    def get(name, **changes):
        key = json.dumps([name, changes])
        if key not in known:
            folder = tmp_path_factory.mktemp("whole")
            known[key] = left_behind(train(folder, options_of(name, digits_file) | changes))
        return known[key]

    return get


@pytest.fixture
def stopped(program, digits_file):
    """Return a function that gives a run that was stopped after a step, as results/run."""

    def make(name="adamw", after=70):
        path = train(program.folder / "results", options_of(name, digits_file), after)
        assert read_json_lines(RunFolder(path).metrics) if after >= 45 else True
        assert not RunFolder(path).summary.exists()
        return path

    return make


def lines_that_differ(found, expected):
    return [name for name in expected if found[name] != expected[name]]


def content_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# The same bits.


@pytest.mark.parametrize("after", [1, 44, 45, 46, 90, 134, 179])
@pytest.mark.parametrize("name", ["adamw", "traced", "nesterov", "sgd", "regularized"])
def test_a_run_may_stop_after_any_step(stopped, uninterrupted, left_behind, name, after):
    path = stopped(name, after)
    assert resume(path)
    assert lines_that_differ(left_behind(path), uninterrupted(name)) == []


def test_a_run_may_stop_after_every_step(tmp_path, digits_file, left_behind):
    options = options_of("adamw", digits_file) | {"epochs": "2", "global_batch_size": "128"}
    expected = left_behind(train(tmp_path / "whole", options))
    path = train(tmp_path / "stopped", options, stop_after=1)
    for step in range(2, 24):
        assert not resume(path, stop_after=step)
    # In the last step there is nothing left to stop.
    assert resume(path, stop_after=24)
    assert lines_that_differ(left_behind(path), expected) == []
    assert [session["step"] for session in read_json(RunFolder(path).run)["resumed"]] == list(
        range(1, 24)
    )


@pytest.mark.parametrize("name", ["adamw", "traced", "nesterov", "impatient"])
def test_each_session_may_have_another_number_of_ranks(
    program, digits_file, uninterrupted, left_behind, name
):
    new = ("--run-name", "run", *words(options_of(name, digits_file)))
    going_on = ("--resume", "results/run")
    for num_ranks, after, arguments in [(3, 50, new), (1, 97, going_on), (4, 130, going_on)]:
        done = program.on_ranks(num_ranks, STOP_AFTER, after, "train", *arguments)
        assert done.returncode == 75, done.stderr
        assert done.stdout.count(f"Stopped after step {after}, as asked.") == 1
    done = program("train", *going_on, "-n", "2")
    assert done.returncode == 0, done.stderr
    path = program.folder / "results/run"
    assert lines_that_differ(left_behind(path), uninterrupted(name)) == []
    run = read_json(RunFolder(path).run)
    assert run["world_size"] == 3
    sessions = [(session["step"], session["world_size"]) for session in run["resumed"]]
    assert sessions == [(50, 1), (97, 4), (130, 2)]
    assert all(session["started"] and session["reduction"] for session in run["resumed"])


@pytest.mark.parametrize("ranks", [(), ("-n", "3")])
def test_a_run_and_its_data_may_move(program, digits_file, stopped, uninterrupted, ranks):
    stopped().rename(program.folder / "elsewhere")
    shutil.copy(digits_file, program.folder / "moved.h5")
    done = program("train", "--resume", "elsewhere", "--data", "moved.h5", *ranks)
    assert done.returncode == 0, done.stderr
    path = program.folder / "elsewhere"
    assert (
        read_json(path / "summary.json")["weights_sha256"]
        == (uninterrupted("adamw")["summary"]["weights_sha256"])
    )
    assert tomllib.loads((path / "config.toml").read_text())["data"]["data"] == "moved.h5"


def test_patience_and_the_best_weights_survive(stopped, uninterrupted, left_behind):
    expected = uninterrupted("impatient")
    summary = expected["summary"]
    best, last = summary["best_epoch"], summary["num_epochs"]
    assert summary["stopped_early"]
    assert last == best + 6 < 40
    assert summary["tested_weights_sha256"] != summary["weights_sha256"]
    # In the middle of each epoch after the best one.
    path = stopped("impatient", 45 * best + 20)
    for epoch in range(best + 1, last):
        assert not resume(path, stop_after=45 * epoch + 20)
    assert resume(path)
    assert lines_that_differ(left_behind(path), expected) == []


def test_the_best_weights_need_no_file_of_their_own(stopped, uninterrupted):
    expected = uninterrupted("impatient")["summary"]
    best = expected["best_epoch"]
    path = stopped("impatient", 45 * (best + 2) + 20)
    (path / "checkpoints" / f"step-{45 * best:08}.safetensors").unlink()
    assert resume(path)
    found = read_json(path / "summary.json")
    assert {name: found[name] for name in expected if not name.endswith("_s")} == expected


@pytest.mark.parametrize("ranks", [(), ("-n", "2")])
def test_a_damaged_checkpoint_is_told_of_and_set_aside(
    program, stopped, uninterrupted, left_behind, ranks
):
    path = stopped(after=75)
    # The one before is of step 70, or an older one where the disk is slow.
    *_, before, damaged = sorted((path / "checkpoints").glob("step-*.safetensors"))
    assert damaged.name == "step-00000075.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1000] ^= 1
    damaged.write_bytes(content)
    done = program("train", "--resume", "results/run", *ranks)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Warning: ") == 1
    assert "step-00000075.safetensors is damaged" in done.stderr
    assert "It is set aside as step-00000075.damaged." in done.stderr
    assert f"Going on after step {int(before.stem[5:])} (" in done.stdout
    assert damaged.with_suffix(".damaged").read_bytes() == bytes(content)
    assert lines_that_differ(left_behind(path), uninterrupted("adamw")) == []


def test_what_was_written_after_the_checkpoint_is_written_anew(
    stopped, uninterrupted, left_behind, digits_file
):
    path = stopped("traced", 135)
    folder = RunFolder(path)
    assert len(read_json_lines(folder.metrics)) == 3
    (folder.checkpoints / "step-00000135.safetensors").unlink()
    for file, line in [(folder.metrics, '{"epoch": 4, "st'), (folder.trace, '{"step": 136')]:
        with file.open("a") as end:
            end.write(line)
    assert resume(path)
    assert lines_that_differ(left_behind(path), uninterrupted("traced")) == []


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_a_run_without_a_first_checkpoint_begins_anew(
    program, stopped, uninterrupted, left_behind, num_ranks
):
    path = stopped()
    for file in path.iterdir():
        if file.name != "config.toml":
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    done = program("train", "--resume", "results/run", "-n", num_ranks)
    assert done.returncode == 0, done.stderr
    assert lines_that_differ(left_behind(path), uninterrupted("adamw")) == []
    assert read_json(path / "run.json")["resumed"] == []


# More epochs.


@pytest.mark.parametrize("after", [70, 180])
def test_more_epochs_are_as_if_they_had_been_meant_from_the_start(
    program, tmp_path, digits_file, uninterrupted, left_behind, after
):
    expected = uninterrupted("sgd", epochs="6")
    path = train(tmp_path / "results", options_of("sgd", digits_file), after)
    done = program("train", "--resume", "results/run", "--epochs", "6", "-n", "2")
    assert done.returncode == 0, done.stderr
    assert "the learning rate takes its course" not in done.stdout
    assert lines_that_differ(left_behind(path), expected) == []
    again = program("train", "results/run/config.toml", "--run-name", "again")
    assert again.returncode == 0, again.stderr
    assert program.summary("again")["weights_sha256"] == expected["summary"]["weights_sha256"]


@pytest.mark.parametrize("name", ["adamw", "nesterov"])
def test_more_epochs_change_the_course_of_the_learning_rate_and_that_is_told(
    program, stopped, name
):
    stopped(name)
    done = program("train", "--resume", "results/run", "--epochs", "5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the learning rate takes its course over 5 epochs instead of 4.") == 1
    assert program.summary("run")["num_epochs"] == 5


def test_a_run_that_goes_on_past_its_end_has_no_summary_of_its_end(stopped, digits_file):
    path = stopped("sgd")
    assert resume(path)
    assert not resume(path, stop_after=200, epochs="6")
    # Readers would take it for that of the six epochs that the configuration speaks of.
    assert not (path / "summary.json").exists()


@pytest.mark.parametrize("ranks", [(), ("-n", "2")])
def test_a_finished_run_is_left_as_it_is(program, stopped, uninterrupted, left_behind, ranks):
    path = stopped()
    assert resume(path)
    done = program("train", "--resume", "results/run", *ranks)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert uninterrupted("adamw")["summary"]["weights_sha256"] in done.stdout
    assert lines_that_differ(left_behind(path), uninterrupted("adamw")) == []
    assert read_json(path / "run.json")["ended"]


# Refusals.


def one_error(done):
    """Return the only message of a command that the user got wrong."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (message,) = re.findall(r"^Error: ([\s\S]*)", done.stderr, re.MULTILINE)
    assert "Error: " not in message
    return message


REFUSED = {
    "learning-rate": (
        ["--learning-rate", "0.5"],
        ["The run can't go on", "optimization.learning_rate was 0.002, now it is 0.5"],
    ),
    "several": (
        ["--hidden-widths", "24,8", "--seed", "7", "--epochs", "3"],
        [
            "network.hidden_widths was [24], now it is [24, 8]",
            "training.seed was 0, now it is 7",
            "training.epochs was 4, now it is 3",
        ],
    ),
    "virtual-ranks": (
        ["--virtual-ranks", "6"],
        ["training.virtual_ranks was 4, now it is 6"],
    ),
    "other-data": (
        ["--data", "other.h5"],
        ["the data in other.h5 are not those that it was trained on"],
    ),
    "other-data-and-more": (
        ["--data", "other.h5", "--activation", "tanh"],
        ["network.activation was relu, now it is tanh", "the data in other.h5 are not those"],
    ),
    "no-data": (["--data", "none.h5"], ["The dataset file none.h5 doesn't exist"]),
    "nonsense": (["--epochs", "many"], ["--epochs", "'many' won't do"]),
    "configuration-beside-it": (["c.toml"], ["--resume goes on with the configuration in", "drop"]),
}


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_another_run_is_refused(program, stopped, num_ranks, case):
    path = stopped()
    convert("digits", program.folder / "other.h5", ConvertOptions(seed=1))
    (program.folder / "c.toml").write_text("[training]\nepochs = 4\n")
    before = content_of(path)
    arguments, messages = REFUSED[case]
    done = program.on_ranks(
        num_ranks, "-m", "lockstep", "train", "--resume", "results/run", *arguments
    )
    told = one_error(done)
    assert [message for message in messages if message not in told] == []
    # No other difference is named.
    num_named = sum("now it is" in message or "the data in" in message for message in messages)
    assert told.count(", now it is ") == num_named
    assert content_of(path) == before


@pytest.mark.parametrize("way", ["n", "mpiexec"])
def test_more_ranks_than_the_run_has_virtual_ranks_are_refused(program, stopped, way):
    path = stopped()
    before = content_of(path)
    arguments = ("train", "--resume", "results/run")
    if way == "n":
        done = program(*arguments, "-n", "5")
    else:
        done = program.on_ranks(5, "-m", "lockstep", *arguments)
    assert "There are 5 ranks, but virtual_ranks = 4" in one_error(done)
    assert content_of(path) == before


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("name", ["nowhere", "empty", "data.h5"])
def test_a_folder_that_is_no_run_is_refused(program, digits_file, num_ranks, name):
    (program.folder / "empty").mkdir()
    shutil.copy(digits_file, program.folder / "data.h5")
    done = program.on_ranks(num_ranks, "-m", "lockstep", "train", "--resume", name)
    assert f"{name} is no run folder: it holds no config.toml" in one_error(done)
    assert not list((program.folder / "empty").iterdir())
    assert not (program.folder / "nowhere").exists()


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize("is_done", [False, True])
def test_a_run_without_its_checkpoints_is_refused(program, stopped, num_ranks, is_done):
    path = stopped()
    if is_done:
        assert resume(path)
    shutil.rmtree(path / "checkpoints")
    before = content_of(path)
    done = program.on_ranks(num_ranks, "-m", "lockstep", "train", "--resume", "results/run")
    told = one_error(done)
    assert "There is no checkpoint in results/run/checkpoints to go on from" in told
    assert "lockstep train results/run/config.toml" in told
    assert content_of(path) == before


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(program, stopped):
    path = stopped()
    for file in (path / "checkpoints").glob("step-*.safetensors"):
        file.write_bytes(file.read_bytes()[:-8])
    done = program("train", "--resume", "results/run")
    assert "All checkpoints in results/run/checkpoints are damaged" in one_error(done)
    assert (path / "checkpoints" / "step-00000070.damaged").exists()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("seed = 0", "seed = 1", "training.seed was 0, now it is 1"),
        ("seed = 0", "sed = 1", "sed: no such field"),
        ("seed = 0", "seed = ", "config.toml is not valid TOML"),
        ("epochs = 4", "epochs = 2", "training.epochs was 4, now it is 2"),
    ],
)
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_an_edited_configuration_is_compared_with_the_run(
    program, stopped, num_ranks, before, after, message
):
    path = stopped()
    config = path / "config.toml"
    text = config.read_text()
    assert text.count(f"\n{before}\n") == 1
    config.write_text(text.replace(f"\n{before}\n", f"\n{after}\n"))
    content = content_of(path)
    done = program.on_ranks(num_ranks, "-m", "lockstep", "train", "--resume", "results/run")
    assert message in one_error(done)
    assert content_of(path) == content


@pytest.mark.parametrize("num_ranks", [1, 3])
def test_data_that_are_gone_are_told_of(program, digits_file, num_ranks):
    data = program.folder / "data.h5"
    shutil.copy(digits_file, data)
    path = train(program.folder / "results", options_of("adamw", data), 70)
    data.unlink()
    before = content_of(path)
    done = program.on_ranks(num_ranks, "-m", "lockstep", "train", "--resume", "results/run")
    assert f"The dataset file {data} doesn't exist" in one_error(done)
    assert content_of(path) == before


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("is_new", [True, False])
def test_two_processes_never_train_in_one_folder(
    program, digits_file, stopped, uninterrupted, left_behind, num_ranks, is_new
):
    path = program.folder / "results/run"
    if is_new:
        command = ("--run-name", "run", *words(options_of("adamw", digits_file)))
    else:
        stopped()
        command = ("--resume", "results/run")
    awaited = program.folder / "go-on"
    with program.started_on_ranks(num_ranks, WAIT_AT_STEP, awaited, "train", *command) as first:
        program.wait_for(awaited.with_name("go-on.waiting").exists)
        before = content_of(path)
        for second_ranks in (1, 2):
            second = program.on_ranks(
                second_ranks, "-m", "lockstep", "train", "--resume", "results/run"
            )
            assert "Another process is training in results/run right now" in one_error(second)
        assert content_of(path) == before
        awaited.touch()
        assert first.wait() == 0, first.stderr
    assert lines_that_differ(left_behind(path), uninterrupted("adamw")) == []
