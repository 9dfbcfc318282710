"""Ranks die under `mpiexec --with-ft ulfm`, and the others go on as if nothing had happened.

Only Open MPI can do that. `LOCKSTEP_SOAK_FAULTS=20` kills at 20 times as many random steps.
"""

import os
import random
import time
from pathlib import Path

import pytest

from lockstep.config import load_config
from lockstep.parallel.launch import library_family, library_version
from lockstep.parallel.single import SingleProcess
from lockstep.storage.run_folder import read_json
from lockstep.train.run import run_training

pytestmark = pytest.mark.skipif(
    library_family(library_version()) != "Open MPI", reason="only Open MPI survives a death"
)

INJECT = Path(__file__).parent / "programs" / "inject"
NUM_TIMES = int(os.environ.get("LOCKSTEP_SOAK_FAULTS", "1"))
SEED = int(os.environ.get("LOCKSTEP_SOAK_SEED", "1"))
OPTIONS = {"virtual_ranks": "6", "epochs": "5", "hidden_widths": "48", "momentum": "0.8"}
STEPS_PER_EPOCH = 23
ARGUMENTS = ["train", *(f"--{name.replace('_', '-')}={text}" for name, text in OPTIONS.items())]


@pytest.fixture(scope="module")
def uninterrupted(digits_file, tmp_path_factory, left_behind):
    config = load_config(None, OPTIONS | {"data": str(digits_file)})
    folder = run_training(config, SingleProcess(), tmp_path_factory.mktemp("whole"), "run").folder
    assert read_json(folder.summary)["num_steps"] == 5 * STEPS_PER_EPOCH
    return left_behind(folder.path)


def cases():
    chance = random.Random(SEED)
    num_steps = 5 * STEPS_PER_EPOCH
    for _ in range(NUM_TIMES):
        # The first step, the last ones of epochs, after which all ranks evaluate, and others.
        for step in (1, STEPS_PER_EPOCH, num_steps, chance.randint(2, num_steps)):
            yield 4, [(chance.randrange(4), step)]
        # The root and its successor; down to a single rank.
        yield 3, [(0, chance.randint(2, 50)), (1, chance.randint(51, num_steps))]
        yield 4, [(rank, chance.randint(2, num_steps)) for rank in (3, 1, 2)]
        # Two in the same step.
        step = chance.randint(2, num_steps)
        yield 4, [(1, step), (2, step)]


@pytest.mark.parametrize(("num_ranks", "deaths"), list(cases()))
def test_the_run_ends_as_if_nothing_had_happened(
    program, digits_file, uninterrupted, left_behind, ledger, num_ranks, deaths
):
    faults = ";".join(
        f"{rank},{step},SIGKILL,{program.folder / f'marker-{rank}'}" for rank, step in deaths
    )
    command = ["--with-ft", "ulfm", "-n", num_ranks, program.python, "-m", "lockstep", *ARGUMENTS]
    began_s = time.time()
    done = program.run(
        [Path(program.python).with_name("mpiexec"), *command, "--data", digits_file,
         "--run-name", "run"],
        **program.mpi_settings, PYTHONPATH=str(INJECT), LOCKSTEP_FAULT=faults,
    )  # fmt: skip
    found = left_behind(program.folder / "results" / "run") if done.returncode == 0 else None
    ledger.record(
        fault=f"SIGKILL of {len(deaths)} of {num_ranks} ranks under --with-ft ulfm",
        ranks=num_ranks,
        seconds=time.time() - began_s,
        exit_code=done.returncode,
        messages=done.stderr.count("Warning: Rank"),
        same_bits=found is not None and found["arrays"] == uninterrupted["arrays"],
    )
    assert done.returncode == 0, done.stderr
    assert len(list(program.folder.glob("marker-*"))) == len(deaths)
    assert "\nError: " not in done.stderr
    assert "Traceback" not in done.stderr
    assert [key for key in uninterrupted if found[key] != uninterrupted[key]] == []
    assert done.stdout.count("Going on after step") >= 1
    sessions = read_json(program.folder / "results/run/run.json")["resumed"]
    assert sessions[-1]["world_size"] == num_ranks - len(deaths)
