"""What the root shows and records may fail: a checkpoint is saved first, then the error is told."""

import sys
from pathlib import Path

import pytest

from lockstep.config import load_config
from lockstep.parallel.single import SingleProcess
from lockstep.storage.checkpoint import CheckpointStore
from lockstep.train.run import run_training

FAIL_OBSERVER = Path(__file__).parent / "programs" / "fail_observer.py"
# No checkpoint comes by itself but at the end of an epoch.
OPTIONS = {"epochs": "3", "virtual_ranks": "2", "checkpoint_every_minutes": "0"}
ARGUMENTS = tuple(f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items())
STEPS_PER_EPOCH = 23
GO_ON = "The training has been saved up to here, and can go on: lockstep train --resume results/run"


@pytest.fixture(scope="module")
def uninterrupted(digits_file, tmp_path_factory, left_behind):
    return _uninterrupted(digits_file, tmp_path_factory.mktemp("whole"), left_behind)


def _uninterrupted(digits_file, folder, left_behind):
    config = load_config(None, OPTIONS | {"data": str(digits_file)})
    run = run_training(config, SingleProcess(), folder, "run")
    return without_trace(left_behind(run.folder.path))


def without_trace(left):
    """Leave out what a failing trace may lack, and how the run was configured to trace."""
    config = "\n".join(line for line in left["config"].split("\n") if not line.startswith("trace"))
    settings = left["facts"]["config"]
    training = {name: value for name, value in settings["training"].items() if name != "trace"}
    facts = left["facts"] | {"config": settings | {"training": training}}
    return left | {"trace": None, "config": config, "facts": facts}


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize(
    ("point", "message", "saved"),
    [
        # It failed in step 30, which the other ranks learn with the gradient of the next one.
        ("bar", "the bar broke", (31, 1)),
        ("trace", "No space left on device", (31, 1)),
        # The epoch that can't be told counts as not evaluated yet.
        ("line", "the line broke", (46, 1)),
        ("metrics", "Is a directory", (46, 1)),
    ],
)
def test_a_failing_observer_loses_nothing(
    program, digits_file, uninterrupted, left_behind, num_ranks, point, message, saved
):
    done = program.on_ranks(
        num_ranks, FAIL_OBSERVER, point, "train", *ARGUMENTS, "--data", digits_file,
        "--run-name", "run", f"--trace={str(point == 'trace').lower()}",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    told = done.stderr
    assert [told.count(text) for text in (message, "\nError: ", GO_ON)] == [1, 1, 1], told
    folder = program.folder / "results/run"
    newest = CheckpointStore(folder / "checkpoints").newest(warn=pytest.fail)
    assert (newest.facts["step"], newest.facts["epoch"]) == saved
    if point == "metrics":
        (folder / "metrics.jsonl").rmdir()
        (folder / "metrics.jsonl.kept").rename(folder / "metrics.jsonl")
    resumed = program("train", "--resume", "results/run", *(("-n", "2") * (num_ranks == 1)))
    assert resumed.returncode == 0, resumed.stderr
    assert without_trace(left_behind(folder)) == uninterrupted


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_nobody_reading_the_output_any_more_loses_nothing(
    program, digits_file, uninterrupted, left_behind, num_ranks
):
    command = ["-m", "lockstep", "train", *ARGUMENTS, "--data", digits_file, "--run-name", "run"]
    # The reader leaves after the first line, which comes before the first step.
    done = program.run(
        ["sh", "-c", 'reader=$1; shift; { "$@"; echo $? >code; } | "$reader" -c "input()"', "sh",
         sys.executable, *launcher(num_ranks), sys.executable, *command],
        **program.mpi_settings,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if num_ranks == 1:  # a launcher may swallow what nobody reads, or end its ranks for it
        assert (program.folder / "code").read_text() == "1\n"
        assert done.stderr == f"{GO_ON}\n"
    assert "Traceback" not in done.stderr
    resumed = program("train", "--resume", "results/run")
    assert resumed.returncode == 0, resumed.stderr
    assert without_trace(left_behind(program.folder / "results/run")) == uninterrupted


def launcher(num_ranks):
    mpiexec = Path(sys.executable).with_name("mpiexec")
    return [] if num_ranks == 1 else [mpiexec, "-n", str(num_ranks)]
