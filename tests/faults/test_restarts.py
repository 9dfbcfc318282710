"""`lockstep train -n P --restarts K`: ranks die, and the run ends with the same bits."""

import os
import random
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
SEED = int(os.environ.get("LOCKSTEP_SOAK_SEED", "1"))
OPTIONS = {
    "virtual_ranks": "4",
    "epochs": "60",
    "checkpoint_every_steps": "10",
    "hidden_widths": "192",
}
ARGUMENTS = ["train", *(f"--{name.replace('_', '-')}={text}" for name, text in OPTIONS.items())]
RESUMABLE = 75


@pytest.fixture(scope="module")
def uninterrupted(digits_file, tmp_path_factory):
    config = load_config(None, OPTIONS | {"data": str(digits_file)})
    folder = run_training(config, SingleProcess(), tmp_path_factory.mktemp("whole"), "run").folder
    return read_json(folder.summary)["weights_sha256"]


def supervised(program, data, *options, **environment):
    command = [*ARGUMENTS, "--data", data, "--run-name", "run", "-n", "3", *options]
    return program.started(*command, **environment)


def metrics_of(program):
    return program.folder / "results" / "run" / "metrics.jsonl"


def errors_in(text):
    return [line for line in text.splitlines() if line.startswith("Error: ")]


def kill_a_rank_in(program, job, num_epochs, chance):
    """Kill one rank after so many epochs."""
    program.wait_for(
        lambda: (
            metrics_of(program).exists()
            and len(metrics_of(program).read_text().splitlines()) >= num_epochs
        )
    )
    # A rank may be starting again at this moment.
    ranks = program.wait_for(job.ranks)
    job.kill(chance.choice(list(ranks.values())))


def test_a_job_that_loses_ranks_again_and_again_ends_with_the_same_bits(
    program, digits_file, uninterrupted, ledger
):
    chance = random.Random(SEED)
    with supervised(program, digits_file, "--restarts", "2") as job:
        began_s = time.time()
        for num_epochs in (1, 20):
            kill_a_rank_in(program, job, num_epochs, chance)
            program.wait_for(lambda: "Restart" in job.stderr)
        exit_code = job.wait()
    digest = program.summary("run")["weights_sha256"]
    ledger.record(
        fault="SIGKILL of two ranks, --restarts 2",
        ranks=3,
        seconds=time.time() - began_s,
        exit_code=exit_code,
        messages=len(errors_in(job.stderr)),
        same_bits=digest == uninterrupted,
    )
    assert exit_code == 0, job.stderr
    assert "Restart 1 of 2, on 3 ranks." in job.stderr
    assert "Restart 2 of 2, on 3 ranks." in job.stderr
    assert digest == uninterrupted
    assert len(metrics_of(program).read_text().splitlines()) == int(OPTIONS["epochs"])


def test_after_the_last_restart_the_job_ends_and_can_be_resumed(
    program, digits_file, uninterrupted
):
    chance = random.Random(SEED + 1)
    with supervised(program, digits_file) as job:
        kill_a_rank_in(program, job, 1, chance)
        assert job.wait() == RANK_LOST
    assert "Restart" not in job.stderr
    assert len(errors_in(job.stderr)) == 1
    assert "Go on with: lockstep train --resume results/run" in job.stderr
    assert program("train", "--resume", "results/run", "-n", "2").returncode == 0
    assert program.summary("run")["weights_sha256"] == uninterrupted


def test_a_rank_that_dies_before_the_run_has_begun_is_no_obstacle(
    program, digits_file, uninterrupted
):
    with supervised(program, digits_file, "--restarts", "1") as job:
        ranks = program.wait_for(lambda: len(job.ranks()) == 3 and job.ranks())
        job.kill(ranks[1])
        assert job.wait() == 0, job.stderr
    assert "Restart 1 of 1" in job.stderr
    assert program.summary("run")["weights_sha256"] == uninterrupted


@pytest.mark.parametrize(
    ("options", "exit_code"), [(["--learning-rate", "x"], 2), (["--hidden-widths", "9,,"], 2)]
)
def test_what_the_user_got_wrong_is_not_tried_again(program, digits_file, options, exit_code):
    with supervised(program, digits_file, "--restarts", "3", *options) as job:
        assert job.wait() == exit_code
    assert "Restart" not in job.stderr
    assert len(errors_in(job.stderr)) == 1


def test_an_exception_is_not_tried_again(program, digits_file):
    environment = {
        "PYTHONPATH": str(INJECT),
        "LOCKSTEP_FAULT": f"1,5,exception,{program.folder / 'marker'}",
    }
    with supervised(program, digits_file, "--restarts", "3", **environment) as job:
        assert job.wait() == 1
    assert "Restart" not in job.stderr
    assert errors_in(job.stderr) == ["Error: Rank 1: Traceback (most recent call last):"]


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGTERM", "SIGINT"])
def test_a_signal_to_stop_is_passed_on_and_nothing_is_started_again(
    program, digits_file, uninterrupted, name
):
    with supervised(program, digits_file, "--restarts", "3") as job:
        program.wait_for(metrics_of(program).exists)
        job.kill(job.process.pid, getattr(signal, name))
        assert job.wait() == RESUMABLE, job.stderr
    assert "Restart" not in job.stderr
    assert errors_in(job.stderr) == []
    assert program("train", "--resume", "results/run").returncode == 0
    assert program.summary("run")["weights_sha256"] == uninterrupted


def test_ranks_do_not_outlive_their_supervisor(program, digits_file, ledger):
    with supervised(program, digits_file, "--epochs", "100000", "--restarts", "3") as job:
        program.wait_for(metrics_of(program).exists)
        job.kill(job.process.pid)
        began_s = time.time()
        assert job.wait() == -signal.SIGKILL
    ledger.record(
        fault="SIGKILL of lockstep train -n",
        ranks=3,
        seconds=time.time() - began_s,
        exit_code=job.process.returncode,
        messages=len(errors_in(job.stderr)),
    )
    assert job.stderr.count("Error: The process that has started the ranks has died.") <= 1


def test_a_made_up_name_is_free_again_when_nothing_came_of_it(program, digits_file):
    options = ["--virtual-ranks", "2", "-n", "2", "--launcher-options=--no-such-option"]
    done = program("train", "--data", digits_file, *options)
    assert done.returncode == 1
    assert "before the ranks had found each other" in done.stderr
    assert list((program.folder / "results").iterdir()) == []
