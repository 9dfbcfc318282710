"""`lockstep sweep` as it is used: on several ranks, killed, gone on with, and misused."""

import csv
import hashlib
import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from lockstep.storage.checkpoint import CheckpointStore

PRESET = Path(__file__).parents[2] / "launch" / "presets" / "sweep.toml"
LITTLE_MEMORY = Path(__file__).parents[1] / "faults" / "programs" / "little_memory.py"
SPEC = """
[sweep]
method = "random"
trials = {trials}
ranks_per_trial = {ranks_per_trial}
min_epochs = 2
factor = 2
[fixed]
data = "{data}"
epochs = {epochs}
virtual_ranks = 2
global_batch_size = 128
[space]
learning_rate = {{ low = 1e-3, high = 1e-1, scale = "log" }}
hidden_widths = [[8], [16]]
"""


# Runs a search, and prints how many shared-memory windows a rank has made, and has freed.
COUNT_WINDOWS = """
import sys
from pathlib import Path

from lockstep.parallel import mpi
from lockstep.parallel.connect import connect
from lockstep.search.spec import Spec
from lockstep.search.sweep import run_sweep

counts = {"made": 0, "freed": 0}


class Counted(mpi.SharedMemory):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        counts["made"] += 1

    def free(self):
        super().free()
        counts["freed"] += 1


mpi.SharedMemory = Counted
communicator = connect()
run_sweep(Spec.load(Path(sys.argv[1])), communicator, Path("searched"))
print(f"windows {counts['made']} {counts['freed']}")
"""


@pytest.fixture
def spec(program, digits_file):
    """Return a function that writes a spec."""

    def write(trials=6, ranks_per_trial=1, epochs=6, data=digits_file, name="spec.toml", **changes):
        text = SPEC.format(trials=trials, ranks_per_trial=ranks_per_trial, data=data, epochs=epochs)
        for before, after in changes.items():
            assert before in text
            text = text.replace(before, after)
        path = program.folder / name
        path.write_text(text)
        return path

    return write


def weights_of(run):
    arrays = CheckpointStore(run / "checkpoints").load("latest").arrays
    return [hashlib.sha256(arrays[name].tobytes()).hexdigest() for name in sorted(arrays)]


def table_of(folder):
    with (folder / "trials.csv").open() as file:
        return list(csv.DictReader(file))


def test_the_example_runs_and_its_winner_is_tested_on_demand(program, digits_file):
    (program.folder / "data").mkdir()
    shutil.copy(digits_file, program.folder / "data" / "digits.h5")
    done = program("sweep", PRESET, "-n", "2")
    assert done.returncode == 0, done.stderr
    folder = program.folder / "results" / "sweep"
    rows = table_of(folder)
    assert [row["epochs_done"] for row in rows] == ["18", "6", "6", *["2"] * 6]
    # Within a rung, the best come first.
    for epochs in ("6", "2"):
        accuracies = [float(row["val_accuracy"]) for row in rows if row["epochs_done"] == epochs]
        assert accuracies == sorted(accuracies, reverse=True)
    assert float(rows[0]["val_accuracy"]) > 0.9
    for name in ("curves", "learning_rate", "hidden_widths", "activation", "dropout"):
        assert (folder / "plots" / f"{name}.png").stat().st_size > 5000
    # Nobody has looked at the test split.
    assert not list(folder.rglob("summary.json"))
    commands = [line.split(": ")[1] for line in done.stdout.splitlines() if ": lockstep" in line]
    assert len(commands) == 2
    for command in commands:
        again = program(*command.split()[1:])
        assert again.returncode == 0, again.stderr
        assert "Test accuracy" in again.stdout


def test_the_number_of_ranks_makes_no_difference(program, spec):
    tables = {}
    for num_ranks, ranks_per_trial in [(1, 1), (2, 1), (4, 2), (3, 2), (1, 2)]:
        path = spec(ranks_per_trial=ranks_per_trial)
        where = f"on-{num_ranks}-{ranks_per_trial}"
        done = program("sweep", path, "-n", num_ranks, "--results", where)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("6 trials up to epoch 2") == 1
        tables[where] = (
            table_of(program.folder / where),
            [weights_of(program.folder / where / f"trial-{trial:04d}") for trial in range(6)],
        )
        # Those who went on are the best of the first rung.
        first = [
            json.loads((program.folder / where / f"trial-{trial:04d}/metrics.jsonl")
                       .read_text().splitlines()[1])["val_accuracy"]
            for trial in range(6)
        ]  # fmt: skip
        went_on = {int(row["trial"]) for row in tables[where][0] if row["epochs_done"] != "2"}
        assert len(went_on) == 3
        assert min(first[trial] for trial in went_on) >= sorted(first)[2]
    assert len({json.dumps(table) for table in tables.values()}) == 1


def test_the_winner_is_the_same_as_when_trained_in_one_go(program, spec):
    done = program("sweep", spec())
    assert done.returncode == 0, done.stderr
    folder = program.folder / "results" / "spec"
    best = f"trial-{int(table_of(folder)[0]['trial']):04d}"
    done = program("train", folder / best / "config.toml", "--run-name", "whole")
    assert done.returncode == 0, done.stderr
    done = program("compare", folder / best, "results/whole")
    assert "val_accuracy" not in done.stdout
    lines = [
        [
            {name: value for name, value in json.loads(line).items() if not name.endswith("_s")}
            for line in (run / "metrics.jsonl").read_text().splitlines()
        ]
        for run in (folder / best, program.folder / "results" / "whole")
    ]
    assert lines[0] == lines[1]


def test_a_killed_search_goes_on_with_the_same_end(program, spec):
    path = spec(trials=4, epochs=30)
    whole = program("sweep", path, "--results", "whole")
    assert whole.returncode == 0, whole.stderr
    folder = program.folder / "killed"
    for wanted in ("trial-0001/metrics.jsonl", "trial-0003/metrics.jsonl"):
        with program.started("sweep", path, "--results", "killed") as job:
            program.wait_for((folder / wanted).exists)
            job.kill_all()
    done = program("sweep", path, "--results", "killed")
    assert done.returncode == 0, done.stderr
    assert table_of(folder) == table_of(program.folder / "whole")
    # Once more, there is nothing to do.
    again = program("sweep", path, "--results", "killed")
    assert again.returncode == 0, again.stderr
    assert table_of(folder) == table_of(program.folder / "whole")


def test_more_trials_are_added_to_what_there_is(program, spec):
    assert program("sweep", spec(trials=4)).returncode == 0
    folder = program.folder / "results" / "spec"
    before = (folder / "trial-0000" / "metrics.jsonl").read_text().splitlines()[:2]
    done = program("sweep", spec(trials=6))
    assert done.returncode == 0, done.stderr
    assert len(table_of(folder)) == 6
    assert (folder / "trial-0000" / "metrics.jsonl").read_text().splitlines()[:2] == before


def test_another_search_is_refused(program, spec):
    assert program("sweep", spec(trials=2)).returncode == 0
    done = program("sweep", spec(trials=2, **{"high = 1e-1": "high = 1e-2"}))
    assert done.returncode == 2
    assert "space.learning_rate was" in done.stderr
    assert done.stderr.count("Error: ") == 1
    (program.folder / "mine").mkdir()
    (program.folder / "mine" / "thesis.txt").write_text("years of work")
    done = program("sweep", spec(), "--results", "mine")
    assert done.returncode == 2
    assert "mine holds something else" in done.stderr


def test_a_trial_that_diverges_comes_last_and_ends_nothing(program, spec):
    done = program(
        "sweep",
        spec(trials=1, **{
            'method = "random"': 'method = "grid"', '{ low = 1e-3, high = 1e-1, scale = "log" }':
            "[0.01, 1e25]", "[[8], [16]]": "[[8]]", "[fixed]": '[fixed]\noptimizer = "sgd"',
        }),
        "-n", "2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    good, bad = table_of(program.folder / "results" / "spec")
    assert (good["trial"], bad["trial"], bad["epochs_done"]) == ("0", "1", "diverged")
    diverged = program.folder / "results" / "spec" / "trial-0001" / "diverged.txt"
    assert "The training has diverged" in diverged.read_text()


def test_where_all_diverge_none_is_the_best(program, spec):
    done = program(
        "sweep",
        spec(trials=2, **{
            '{ low = 1e-3, high = 1e-1, scale = "log" }': "[1e25]", "[[8], [16]]": "[[8]]",
            "[fixed]": '[fixed]\noptimizer = "sgd"',
        }),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "none is the best" in done.stdout
    assert "lockstep train" not in done.stdout


def test_what_is_wrong_is_told_once_before_anything_is_trained(program, spec, tmp_path):
    np.savez(tmp_path / "few.npz", x=np.random.default_rng(0).random((30, 3)), y=np.arange(30) % 3)
    done = program("convert", tmp_path / "few.npz", tmp_path / "few.h5", "--validation", "0")
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "few.h5") as file:
        assert not len(file["validation/x"])
    for num_ranks, changes, words in [
        (2, {"ranks_per_trial": 3}, "There are 3 ranks, but virtual_ranks = 2"),
        (2, {"data": "none.h5"}, "Trial 0 (learning_rate = "),
        (2, {"[[8], [16]]": "[[8], [0]]"}, "[space] hidden_widths: "),
        (2, {"virtual_ranks = 2": "virtual_ranks = 2\nepoch = 3"}, "did you mean --epochs"),
        (1, {"data": tmp_path / "few.h5"}, "has no validation rows"),
    ]:
        done = program("sweep", spec(**changes), "-n", num_ranks)
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("Error: ") == 1
        assert words in done.stderr
    done = program("sweep", "none.toml", "-n", 2)
    assert done.returncode == 2
    assert "There is no configuration file none.toml" in done.stderr
    assert not (program.folder / "results").exists()


def test_groups_side_by_side_share_the_memory_of_a_host(program, spec):
    path = spec(trials=2, epochs=2)
    words = (LITTLE_MEMORY, 0, 750_000, "sweep", path, "--results", "searched")
    done = program.on_ranks(2, *words)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("Error: ") == 1
    assert "Not enough memory: ranks 0-1 would take about " in done.stderr
    assert " MB together, and 0.8 MB are available on small-host" in done.stderr
    assert not (program.folder / "searched").exists()
    # One group after the other has room.
    done = program.on_ranks(1, *words)
    assert done.returncode == 0, done.stderr


def test_a_rank_that_dies_ends_all_groups_with_one_message(program, spec):
    path = spec(trials=4, ranks_per_trial=2, epochs=3000, **{"min_epochs = 2": "min_epochs = 0"})
    with program.started("sweep", path, "-n", "4") as job:
        # The second group's second rank, while both groups train.
        for trial in range(2):
            metrics = program.folder / f"results/spec/trial-{trial:04d}/metrics.jsonl"
            program.wait_for(metrics.exists)
        job.kill(job.ranks()[3])
        assert job.wait() == 69
    assert job.stderr.count("Error: ") == 1
    assert "Rank 3 has died" in job.stderr
    # Not by resuming one trial, which would look at the test split.
    assert "Go on with: the same command" in job.stderr


def test_trials_that_diverge_leave_no_shared_memory_behind(program, spec):
    path = spec(trials=1, ranks_per_trial=2, **{
        'method = "random"': 'method = "grid"', "min_epochs = 2": "min_epochs = 0",
        '{ low = 1e-3, high = 1e-1, scale = "log" }': "[1e25]\nseed = [0, 1, 2, 3]",
        "[[8], [16]]": "[[8]]", "[fixed]": '[fixed]\noptimizer = "sgd"',
    })  # fmt: skip
    counting = program.folder / "count_windows.py"
    counting.write_text(COUNT_WINDOWS)
    done = program.on_ranks(2, counting, path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("diverged after epoch 0") == 4
    # Of each rank: one for each trial, and all of them are given back.
    # Their lines may run into each other.
    assert re.findall(r"windows (\d) (\d)", done.stdout) == [("4", "4")] * 2


def test_two_searches_never_share_a_folder(program, spec):
    path = spec(epochs=3000)
    with program.started("sweep", path, "--results", "shared"):
        program.wait_for((program.folder / "shared/trial-0000/metrics.jsonl").exists)
        done = program("sweep", path, "--results", "shared")
    assert done.returncode == 2
    assert "Another process is training in shared right now" in done.stderr
