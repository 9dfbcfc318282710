"""A data set that is larger than the memory budget, as the user meets it."""

import signal
import sys

import numpy as np
import pytest

from lockstep.config import load_config
from lockstep.data.dataset_file import LABEL_DTYPE
from lockstep.data.dataset_writer import Header, create_dataset_file
from lockstep.parallel.single import SingleProcess
from lockstep.storage.run_folder import read_json
from lockstep.train.run import run_training

BUDGET_MB, ROW = 8, 784
# Trains, and prints how much memory the process took at its peak, in kB. (The system's other
# figure for it, ru_maxrss, is that of the process before it became this program, if that is more.)
MEASURE = """
import sys
from pathlib import Path
from lockstep.config import load_config
from lockstep.parallel.single import SingleProcess
from lockstep.train.run import run_training

options = dict(word.split("=") for word in sys.argv[2:])
run_training(load_config(None, options), SingleProcess(), Path("results"), sys.argv[1])
lines = Path("/proc/self/status").read_text().splitlines()
print(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
"""


@pytest.fixture(scope="module")
def large_file(tmp_path_factory):
    """Return a function that makes a file of so many megabytes."""
    folder = tmp_path_factory.mktemp("large")

    def make(megabytes):
        path = folder / f"{megabytes}.h5"
        num_rows = megabytes * 1_000_000 // ROW
        sizes = {"train": num_rows * 8 // 10, "validation": num_rows // 10, "test": num_rows // 10}
        generator = np.random.default_rng(0)
        header = Header(
            name="large", class_names=("a", "b"), feature_shape=(28, 28),
            dtype=np.dtype(np.uint8), image_form="image", white=255, source="random numbers",
            source_files=(), source_sha256=(), shuffle_seed=0,
        )  # fmt: skip
        with create_dataset_file(path, header) as writer:
            for split, size in sizes.items():
                x = generator.integers(0, 256, (size, 28, 28), np.uint8)
                writer.write_split(split, [x], generator.integers(0, 2, size, LABEL_DTYPE))
            writer.finish(1 / 255, 0.0)
        return path

    return make


def options_of(data, budget_mb=BUDGET_MB, **options):
    return {
        "data": data, "memory_budget_mb": budget_mb, "epochs": 1, "virtual_ranks": 2,
        "global_batch_size": 100, "hidden_widths": 8, **options,
    }  # fmt: skip


def train_words(*arguments, **options):
    given = options_of(*arguments, **options).items()
    words = (f"--{name.replace('_', '-')}={value}" for name, value in given)
    return ("train", "--run-name", "run", *words)


def test_memory_does_not_grow_with_the_data(program, large_file):
    peaks = []
    for megabytes in (60, 160):
        words = [f"{name}={value}" for name, value in options_of(large_file(megabytes)).items()]
        done = program.run([sys.executable, "-c", MEASURE, str(megabytes), *words])
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split()[-1]) / 1000)
    # A hundred megabytes more. What is to be seen of them are HDF5's caches as they fill up.
    assert peaks[1] - peaks[0] < 25, peaks


@pytest.mark.parametrize("ranks", [(), ("-n", "2")])
def test_a_budget_that_is_too_small_is_refused_and_told_what_it_takes(program, digits_file, ranks):
    # Two batches of 32 rows of 97 bytes, of which training has 1437 of 1797.
    done = program(*train_words(digits_file, 0.007, global_batch_size=32), *ranks)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("Error: ") == 1
    assert "memory_budget_mb = 0.007 is too small" in done.stderr
    assert "it takes at least 0.008." in done.stderr
    assert not (program.folder / "results").exists()
    done = program(*train_words(digits_file, 0.008, global_batch_size=32), *ranks)
    assert done.returncode == 0, done.stderr


def test_the_budget_is_part_of_what_a_run_is(program, digits_file):
    words = train_words(digits_file, 0.05, global_batch_size=32)
    assert program(*words).returncode == 0
    done = program("train", "--resume", "results/run", "--epochs=2", "--memory-budget-mb=0.06")
    assert done.returncode == 2
    assert "data.memory_budget_mb was 0.05, now it is 0.06" in done.stderr


# So many steps that a signal after the first checkpoint comes long before their end.
MANY_STEPS = {"global_batch_size": 8, "hidden_widths": 64}


@pytest.fixture(scope="module")
def uninterrupted(large_file, tmp_path_factory):
    options = options_of(large_file(60), **MANY_STEPS)
    config = load_config(None, {name: str(value) for name, value in options.items()})
    folder = run_training(config, SingleProcess(), tmp_path_factory.mktemp("whole"), "run").folder
    return read_json(folder.summary)["weights_sha256"]


@pytest.mark.parametrize("ranks", [(), ("-n", "2")])
def test_a_run_that_is_told_to_stop_ends_and_can_go_on(program, large_file, uninterrupted, ranks):
    with program.started(*train_words(large_file(60), **MANY_STEPS), *ranks) as job:
        program.wait_for(lambda: list(program.folder.glob("results/run/checkpoints/step-*")))
        ranks_of_job = job.ranks()
        job.kill(ranks_of_job[0] if ranks_of_job else job.launcher, signal.SIGTERM)
        assert job.wait() == 75, job.stderr
        assert "Stopped after step" in job.stdout
    done = program("train", "--resume", "results/run")
    assert done.returncode == 0, done.stderr
    assert program.summary("run")["weights_sha256"] == uninterrupted


def test_evaluate_reads_block_by_block_too(program, large_file):
    assert program(*train_words(large_file(20))).returncode == 0
    done = program("evaluate", "results/run", "--split", "train")
    assert done.returncode == 0, done.stderr
    assert f"/ {20_000_000 // ROW * 8 // 10})" in done.stdout
