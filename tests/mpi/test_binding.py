"""Cores and threads of real ranks: told in run.json, and warned of where they won't do."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from lockstep.parallel.launch import mpiexec_family

NUM_CORES = len(os.sched_getaffinity(0))
# One core for all of them, in the words of each launcher.
ALL_ON_CORE_0 = {"MPICH": "-bind-to user:0,0", "Open MPI": "--cpu-set 0"}


@pytest.fixture
def train(program, digits_file):
    """Train on two ranks under mpiexec and its options; give stderr and what was recorded."""
    mpiexec = Path(program.python).with_name("mpiexec")

    def run(name, options, *fields):
        done = program.run(
            [mpiexec, *options, "-n", "2", program.python, "-m", "lockstep", "train", "--data",
             digits_file, "--epochs", "1", "--run-name", name, *fields],
            **program.mpi_settings,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr, json.loads((program.folder / f"results/{name}/run.json").read_text())

    return run


def alone(program, digits_file, *fields, **environment):
    name = "-".join(["run", *fields, *environment.values()]).replace("-n", "on")
    done = program("train", "--data", digits_file, "--epochs", "1", "--run-name", name, *fields,
                   **environment)  # fmt: skip
    assert done.returncode == 0, done.stderr
    folder = program.folder / "results" / name
    config = (folder / "config.toml").read_text()
    threads = int(re.search(r"^threads_per_rank = (\d+)$", config, re.MULTILINE)[1])
    return done.stderr, json.loads((folder / "run.json").read_text()), threads


@pytest.mark.skipif(NUM_CORES < 2, reason="a single core can't be shared badly")
def test_ranks_on_one_core_are_told_the_option_that_mends_it(program, train):
    family = mpiexec_family(str(Path(program.python).with_name("mpiexec")))
    stderr, run = train("crowded", shlex.split(ALL_ON_CORE_0[family]))
    assert stderr.count("Warning:") == 1
    assert "Ranks 0-1 can only use core 0 of" in stderr
    assert [place.split(", ")[1] for place in run["binding"].values()] == ["core 0", "core 0"]

    advice = re.search(r"`mpiexec (.*?)`", stderr)[1]
    stderr, run = train("mended", shlex.split(advice))
    assert "Warning:" not in stderr
    assert "Note:" not in stderr
    assert len(set(run["binding"].values())) == 2
    # It is a matter of time alone.
    digests = [program.summary(name)["weights_sha256"] for name in ("crowded", "mended")]
    assert digests[0] == digests[1]


def test_the_users_threads_are_respected_by_ranks_that_lockstep_starts(program, digits_file):
    # The tests themselves ask for one thread.
    _, run, threads = alone(program, digits_file, "-n", "2", OMP_NUM_THREADS="2")
    assert threads == 2
    assert run["blas"]["threads"] == min(2, NUM_CORES)
    assert run["blas"]["pinned"] == {"OMP_NUM_THREADS": "2"}
    # What the run is told wins.
    _, run, threads = alone(program, digits_file, "-n", "2", "--threads-per-rank", "1",
                            OMP_NUM_THREADS="2")  # fmt: skip
    assert threads == 1
    assert run["blas"]["threads"] == 1


def test_no_rank_has_more_threads_than_cores(program, digits_file):
    asked_for = NUM_CORES + 1
    stderr, run, threads = alone(program, digits_file, "--threads-per-rank", str(asked_for))
    assert stderr.count("Warning:") == 1
    assert f"of {asked_for} BLAS threads" in stderr
    # The run goes on asking for them, on a larger machine perhaps.
    assert threads == asked_for
    assert run["blas"]["threads"] == NUM_CORES
