"""Numbers gone bad on one rank: all stop and say where, or skip the step; nothing is spoiled."""

import random
import re
from pathlib import Path

import numpy as np
import pytest

from lockstep.config import load_config
from lockstep.parallel.single import SingleProcess
from lockstep.storage.checkpoint import CheckpointStore
from lockstep.storage.run_folder import read_json, read_json_lines
from lockstep.train.run import run_training

BAD_NUMBERS = Path(__file__).parent / "programs" / "bad_numbers.py"
OPTIONS = {
    "epochs": "2",
    "virtual_ranks": "4",
    "hidden_widths": "16,12",
    "checkpoint_every_steps": "5",
    "replica_check_every": "0",
}
ARGUMENTS = tuple(f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items())
STEPS_PER_EPOCH = 23
PLACES = {
    "data": "the samples of virtual rank",
    "gradient": "the gradient of layer 2 of virtual rank",
    "parameters": "the parameters of layer 2 of virtual rank",
}


@pytest.fixture(scope="module")
def uninterrupted(digits_file, tmp_path_factory, left_behind):
    config = load_config(None, OPTIONS | {"data": str(digits_file)})
    return left_behind(
        run_training(config, SingleProcess(), tmp_path_factory.mktemp("x")).folder.path
    )


def train(program, num_ranks, digits_file, where, steps, *options, stop_after=0):
    """Train on ranks with numbers that go bad in some steps."""
    places = ",".join(":".join(map(str, step)) for step in steps)
    command = (BAD_NUMBERS, where, places, stop_after, "train", *options)
    return program.on_ranks(num_ranks, *command)


def begin(program, num_ranks, digits_file, where, steps, name="run", **options):
    arguments = (*ARGUMENTS, "--data", digits_file, "--run-name", name)
    more = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return train(program, num_ranks, digits_file, where, steps, *arguments, *more)


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("where", PLACES)
def test_bad_numbers_of_one_virtual_rank_stop_all_and_spoil_nothing(
    program, digits_file, uninterrupted, left_behind, where, num_ranks
):
    dice = random.Random(f"{where} {num_ranks}")
    epoch, step, virtual_rank = dice.choice([1, 2]), dice.randrange(STEPS_PER_EPOCH), 2
    done = begin(program, num_ranks, digits_file, where, [(epoch, step, virtual_rank)])
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    bad_step = (epoch - 1) * STEPS_PER_EPOCH + step + 1
    assert f"The training has diverged at step {bad_step} (epoch {epoch}): the loss is" in message
    if where == "parameters":
        # They are those of all of the rank's virtual ranks, and the last of 3 ranks has two.
        virtual_rank = {1: 0, 2: 2, 3: 2}[num_ranks]
    assert f"{PLACES[where]} {virtual_rank} (rank " in message
    rank = {1: 0, 2: 1, 3: 2}[num_ranks]
    assert re.search(rf"\(rank {rank}\b", message)
    assert ("the samples there are finite" in message) == (where != "data")
    assert "--learning-rate" in message
    assert "--standardize" in message

    folder = program.folder / "results/run"
    newest = CheckpointStore(folder / "checkpoints").newest(warn=pytest.fail)
    assert newest.facts["step"] == max(
        saved for saved in {*range(0, 47, 5), STEPS_PER_EPOCH} if saved < bad_step
    )
    assert f"The checkpoint of step {newest.facts['step']} is from before." in message
    assert all(np.isfinite(values).all() for values in newest.arrays.values())
    assert not (folder / "summary.json").exists()
    resumed = program("train", "--resume", folder)
    assert resumed.returncode == 0, resumed.stderr
    assert left_behind(folder) == uninterrupted | {"config": (folder / "config.toml").read_text()}


def test_skipped_steps_are_the_same_on_any_number_of_ranks_and_after_a_resume(
    program, digits_file, left_behind
):
    # The first and the last step of an epoch among them, and one that is bad on two virtual ranks.
    bad = [(1, 0, 3), (1, 7, 0), (2, 4, 1), (2, 4, 2), (2, 22, 2)]
    options = {"on_nonfinite": "skip", "optimizer": "adam", "l2": "0.001", "trace": "false"}
    found = []
    for num_ranks in (1, 2, 3, 4):
        name = f"on-{num_ranks}"
        done = begin(program, num_ranks, digits_file, "data", bad, name, **options)
        assert done.returncode == 0, done.stderr
        assert "steps skipped so far: 2" in done.stdout
        assert "steps skipped so far: 4" in done.stdout
        found.append(left_behind(program.folder / "results" / name))
    assert all(each == found[0] for each in found)
    assert found[0]["summary"]["num_skipped_steps"] == found[0]["facts"]["num_skipped_steps"] == 4
    assert [line["num_skipped_steps"] for line in found[0]["metrics"]] == [2, 4]
    assert all(np.isfinite(line["train_loss"]) for line in found[0]["metrics"])

    name = ("--run-name", "stopped", "--data", digits_file)
    skip = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    # After a skipped step of the first epoch, and in the second one.
    first = train(program, 2, digits_file, "data", bad, *ARGUMENTS, *skip, *name, stop_after=10)
    assert first.returncode == 75, first.stderr
    folder = program.folder / "results/stopped"
    for num_ranks, stop_after, exit_code in [(3, 30, 75), (1, 0, 0)]:
        resume = ("--resume", folder)
        done = train(program, num_ranks, digits_file, "data", bad, *resume, stop_after=stop_after)
        assert done.returncode == exit_code, done.stderr
    assert left_behind(folder) == found[0]


def test_an_epoch_of_skipped_steps_ends_the_run(program, digits_file):
    bad = [(2, step, 1) for step in range(STEPS_PER_EPOCH)]
    done = begin(program, 2, digits_file, "gradient", bad, on_nonfinite="skip")
    assert done.returncode == 2, done.stderr
    assert "diverged at step 46 (epoch 2, every step skipped): " in done.stderr
    assert "the gradient of layer 2 of virtual rank 1 (rank 0)" in done.stderr
    lines = read_json_lines(program.folder / "results/run/metrics.jsonl")
    assert [(line["epoch"], line["num_skipped_steps"]) for line in lines] == [(1, 0)]


def test_what_was_not_skipped_is_not_mentioned(program, digits_file):
    done = begin(program, 1, digits_file, "data", [(9, 0, 0)], on_nonfinite="skip")
    assert done.returncode == 0, done.stderr
    assert "skipped" not in done.stdout
    assert read_json(program.folder / "results/run/summary.json")["num_skipped_steps"] == 0
