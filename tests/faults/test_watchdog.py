"""Ranks that die or hang: the job ends, one message tells which, and the run can go on.

`LOCKSTEP_SOAK_FAULTS=20 pytest tests/faults/test_watchdog.py` injects every fault that often, at
steps and on numbers of ranks that LOCKSTEP_SOAK_SEED decides.
"""

import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from lockstep.config import load_config
from lockstep.errors import RANK_LOST
from lockstep.parallel.single import SingleProcess
from lockstep.storage.run_folder import read_json
from lockstep.train.run import run_training

INJECT = Path(__file__).parent / "programs" / "inject"
EARLY = Path(__file__).parent / "programs" / "stopped_at_start.py"
NUM_TIMES = int(os.environ.get("LOCKSTEP_SOAK_FAULTS", "1"))
SEED = int(os.environ.get("LOCKSTEP_SOAK_SEED", "1"))
STALL_S = 3
OPTIONS = {
    "virtual_ranks": "4",
    "epochs": "4",
    "checkpoint_every_steps": "10",
    "hidden_widths": "48",
    "stall_timeout_s": str(STALL_S),
}
STEPS = 4 * 23
ARGUMENTS = ["train", *(f"--{name.replace('_', '-')}={text}" for name, text in OPTIONS.items())]
# What the message says of each.
DEADLY = {
    "SIGKILL": "has died",
    "SIGSEGV": "has died",
    "exit": "has died",
    "SIGSTOP": f"has not been heard of for {STALL_S} s",
    "sleep": f"has made no progress for {STALL_S} s",
    "endless loop": f"has made no progress for {STALL_S} s",
}
HARMLESS = ("slow", "pause")


@pytest.fixture(scope="module")
def uninterrupted(digits_file, tmp_path_factory):
    config = load_config(None, OPTIONS | {"data": str(digits_file)})
    folder = run_training(config, SingleProcess(), tmp_path_factory.mktemp("whole"), "run").folder
    summary = read_json(folder.summary)
    assert summary["num_steps"] == STEPS
    return summary["weights_sha256"]


def cases(faults):
    chance = random.Random(SEED)
    for fault in faults:
        for _ in range(NUM_TIMES):
            for whom in ("root", "last"):
                num_ranks = chance.randint(2, 4)
                rank = 0 if whom == "root" else num_ranks - 1
                yield fault, num_ranks, rank, chance.randint(2, STEPS)


def assert_names_step(error, step):
    named = re.search(r" in step (\d+)(?:, phase [a-z ]+?(?=:| or ))?( or soon after)?", error)
    if named:
        assert int(named[1]) == step or (named[2] and int(named[1]) < step), error
    else:
        # The launcher was faster than the other ranks, and no step had been told before.
        assert "at its start or soon after" in error or "in phase start-up or soon" in error


def injected(fault, rank, step, marker):
    return {"PYTHONPATH": str(INJECT), "LOCKSTEP_FAULT": f"{rank},{step},{fault},{marker}"}


def errors_in(text):
    return [line for line in text.splitlines() if line.startswith("Error: ")]


def temporary_files(folder):
    return [path.name for path in folder.rglob(".*") if path.name != ".lock"]


def outcome_of(program, started, marker, uninterrupted):
    """Return a job that ends by a fault, and what the ledger tells of it; the run is resumed."""
    with started as job:
        exit_code = job.wait()
        seconds = time.time() - marker.stat().st_mtime
    resumed = program("train", "--resume", "results/run")
    assert resumed.returncode == 0, resumed.stderr
    digest = program.summary("run")["weights_sha256"]
    return job, {
        "seconds": seconds,
        "exit_code": exit_code,
        "messages": len(errors_in(job.stderr)),
        "same_bits": digest == uninterrupted,
    }


@pytest.mark.parametrize(("fault", "num_ranks", "rank", "step"), list(cases(DEADLY)))
def test_a_rank_that_is_lost_ends_the_job_and_the_run_goes_on(
    program, digits_file, uninterrupted, ledger, fault, num_ranks, rank, step
):
    marker = program.folder / "marker"
    command = [*ARGUMENTS, "--data", digits_file, "--run-name", "run", "-n", num_ranks]
    started = program.started(*command, **injected(fault, rank, step, marker))
    job, outcome = outcome_of(program, started, marker, uninterrupted)
    ledger.record(fault=f"{fault} in a step", ranks=num_ranks, **outcome)
    assert outcome["exit_code"] == RANK_LOST
    (error,) = errors_in(job.stderr)
    assert error.startswith(f"Error: Rank {rank} {DEADLY[fault]}")
    assert_names_step(error, step)
    assert "lockstep train --resume results/run" in error
    assert "Traceback" not in job.stderr
    assert outcome["same_bits"]
    assert temporary_files(program.folder / "results" / "run") == []


@pytest.mark.parametrize(("fault", "num_ranks", "rank", "step"), list(cases(["SIGKILL", "sleep"])))
def test_the_same_under_a_launcher_of_the_users_own(
    program, digits_file, uninterrupted, ledger, fault, num_ranks, rank, step
):
    marker = program.folder / "marker"
    command = ["-m", "lockstep", *ARGUMENTS, "--data", digits_file, "--run-name", "run"]
    environment = injected(fault, rank, step, marker)
    started = program.started_on_ranks(num_ranks, *command, **environment)
    job, outcome = outcome_of(program, started, marker, uninterrupted)
    ledger.record(fault=f"{fault} in a step, under mpiexec", ranks=num_ranks, **outcome)
    assert outcome["exit_code"] != 0
    errors = errors_in(job.stderr)
    # A launcher that has noticed a death may end the other ranks before they can tell of it.
    assert len(errors) == 1 or (fault == "SIGKILL" and not errors)
    for error in errors:
        assert error.startswith(f"Error: Rank {rank} {DEADLY[fault]}")
    assert outcome["same_bits"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_hangs_outside_of_steps_is_noticed_too(
    program, digits_file, uninterrupted, ledger, rank
):
    marker = program.folder / "marker"
    command = [*ARGUMENTS, "--data", digits_file, "--run-name", "run", "-n", "2"]
    done = program(*command, **injected("hang in evaluation", rank, 30, marker))
    assert done.returncode == RANK_LOST
    (error,) = errors_in(done.stderr)
    assert error.startswith(f"Error: Rank {rank} has made no progress for {STALL_S} s, in phase ")
    assert "phase evaluation after step 46, and the others wait for it." in error
    assert program("train", "--resume", "results/run").returncode == 0
    digest = program.summary("run")["weights_sha256"]
    ledger.record(
        fault="hang in evaluation",
        ranks=2,
        seconds=time.time() - marker.stat().st_mtime,
        exit_code=done.returncode,
        messages=1,
        same_bits=digest == uninterrupted,
    )
    assert digest == uninterrupted


@pytest.mark.parametrize(("fault", "num_ranks", "rank", "step"), list(cases(HARMLESS)))
def test_a_slow_rank_is_waited_for(
    program, digits_file, uninterrupted, ledger, fault, num_ranks, rank, step
):
    marker = program.folder / "marker"
    command = [*ARGUMENTS, "--data", digits_file, "--run-name", "run", "-n", num_ranks]
    done = program(*command, **injected(fault, rank, step, marker))
    ledger.record(
        fault=f"{fault} in a step",
        ranks=num_ranks,
        exit_code=done.returncode,
        messages=len(errors_in(done.stderr)),
        same_bits=program.summary("run")["weights_sha256"] == uninterrupted,
    )
    assert done.returncode == 0, done.stderr
    assert errors_in(done.stderr) == []
    assert marker.exists()
    assert program.summary("run")["weights_sha256"] == uninterrupted


@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_never_comes_to_start_mpi_is_not_waited_for(program, digits_file, ledger, rank):
    command = [EARLY, rank, *ARGUMENTS, "--data", digits_file]
    with program.started_on_ranks(3, *command, LOCKSTEP_START_TIMEOUT_S="3") as job:
        began_s = time.time()
        exit_code = job.wait()
    ledger.record(
        fault="SIGSTOP before MPI starts",
        ranks=3,
        seconds=time.time() - began_s,
        exit_code=exit_code,
        messages=len(errors_in(job.stderr)),
    )
    assert exit_code != 0
    assert job.stderr.count("Error: Not all of the 3 ranks have come to start MPI within") == 1
    assert not (program.folder / "results").exists()


ABORT = """MPI_ABORT was invoked on rank {} in communicator MPI_COMM_WORLD
  Proc: [[58882,1],2]
  Errorcode: {}

NOTE: invoking MPI_ABORT causes Open MPI to kill all MPI processes.
"""
REASON = "prterun has exited due to process rank {} with PID 0 on node vm {}. This may"
CALLED_ABORT = 'calling\n"abort"'


@pytest.mark.parametrize(
    ("exit_code", "errors", "expected"),
    [
        (-11, ABORT.format(2, 69) + REASON.format(2, CALLED_ABORT), 69),
        (-11, ABORT.format(1, 69) + REASON.format(2, CALLED_ABORT), 69),
        (-11, ABORT.format(2, 69), -11),
        (-11, REASON.format(2, CALLED_ABORT), -11),
        (-11, ABORT.format(2, 69) + REASON.format(2, "exiting"), -11),
        (-11, "Segmentation fault", -11),
        (-6, ABORT.format(2, 69) + REASON.format(2, CALLED_ABORT), -6),
        (1, ABORT.format(2, 69) + REASON.format(2, CALLED_ABORT), 1),
    ],
)
def test_only_a_crash_of_the_launcher_after_an_abort_is_taken_for_that(
    program, exit_code, errors, expected
):
    assert program.exit_code_told(exit_code, errors) == expected


def test_ranks_do_not_outlive_their_launcher(program, digits_file, ledger):
    arguments = [*ARGUMENTS, "--data", digits_file, "--epochs=100000", "--run-name", "run"]
    with program.started_on_ranks(2, "-m", "lockstep", *arguments) as job:
        program.wait_for((program.folder / "results/run/metrics.jsonl").exists)
        job.kill(job.launcher)
        killed_s = time.time()
        exit_code = job.wait()
    seconds = time.time() - killed_s
    ledger.record(
        fault="SIGKILL of mpiexec",
        ranks=2,
        seconds=seconds,
        exit_code=exit_code,
        messages=len(errors_in(job.stderr)),
    )
    assert exit_code == -signal.SIGKILL


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("what", "exit_code", "message"),
    [
        ("raise ValueError('mine')", 1, "Error: Rank {rank}: Traceback (most recent call last):"),
        ("raise UserError('x.csv is wrong')", 2, "Error: Rank {rank}: x.csv is wrong"),
        ("sys.exit(3)", 69, "Error: Rank {rank} has ended, while the others wait for it"),
    ],
)
def test_a_program_of_the_users_own_fails_together_too(
    program, digits_file, ledger, rank, what, exit_code, message
):
    script = program.folder / "own.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from lockstep.config import load_config\n"
        "from lockstep.errors import UserError\n"
        "from lockstep.parallel.connect import connect\n"
        "from lockstep.train.run import run_training\n"
        "ranks = connect()\n"
        f"if ranks.rank == {rank}:\n"
        f"    {what}\n"
        f"config = load_config(None, {{'data': {str(digits_file)!r}}})\n"
        "run_training(config, ranks, Path('results'))\n"
    )
    began_s = time.time()
    done = program.on_ranks(3, script)
    ledger.record(
        fault=f"{what} in a program of the user's own",
        ranks=3,
        seconds=time.time() - began_s,
        exit_code=done.returncode,
        messages=len(errors_in(done.stderr)),
    )
    assert done.returncode == exit_code, done.stderr
    assert len(errors_in(done.stderr)) == 1
    assert message.format(rank=rank) in done.stderr


def test_a_group_of_a_search_that_stands_still_is_noticed_while_another_goes_on(
    program, digits_file
):
    (program.folder / "spec.toml").write_text(
        "[sweep]\nmethod = 'grid'\nranks_per_trial = 2\n"
        f"[fixed]\ndata = '{digits_file}'\nvirtual_ranks = 2\nepochs = 100000\n"
        f"stall_timeout_s = {STALL_S}\n"
        "[space]\nlearning_rate = [0.01, 0.02]\n"
    )
    fault = injected("sleep", 3, 50, program.folder / "marker")
    done = program("sweep", "spec.toml", "-n", 4, **fault)
    assert done.returncode == RANK_LOST
    (error,) = errors_in(done.stderr)
    assert error.startswith(f"Error: Rank 3 has made no progress for {STALL_S} s, in step 50, ")
    assert "and the others wait for it." in error
