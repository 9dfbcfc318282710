"""Signals to stop and to save, to a launcher, to one rank, and to a process alone."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lockstep.config import load_config
from lockstep.parallel.single import SingleProcess
from lockstep.storage.checkpoint import CheckpointStore
from lockstep.storage.run_folder import read_json
from lockstep.train.run import run_training

HANG_IN_SAVE = Path(__file__).parent / "programs" / "hang_in_save.py"
# So many and so slow steps that a signal comes long before the end of the first epoch.
OPTIONS = {
    "virtual_ranks": "2",
    "global_batch_size": "2",
    "hidden_widths": "192,192",
    "epochs": "3",
    "keep_checkpoints": "9",
}
STEPS_PER_EPOCH = 719
ARGUMENTS = tuple(f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items())
STOPPED = re.compile(
    r"^Stopped after step (\d+), as asked\. Go on with: lockstep train --resume results/run$",
    re.MULTILINE,
)


def is_open_mpi():
    mpiexec = Path(sys.executable).with_name("mpiexec")
    told = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=False)
    return "Open MPI" in told.stdout or "prte" in told.stdout


# Open MPI's mpiexec takes the other two as its own, and ends everything.
PASSED_ON = ("SIGUSR1",) if is_open_mpi() else ("SIGUSR1", "SIGTERM", "SIGINT")
CASES = [
    *((name, None, "process") for name in ("SIGUSR1", "SIGTERM", "SIGINT")),
    *((name, 2, "launcher") for name in PASSED_ON),
    *((name, 2, rank) for name in ("SIGUSR1", "SIGTERM", "SIGINT") for rank in (0, 1)),
]


@pytest.fixture(scope="module")
def uninterrupted(digits_file, tmp_path_factory):
    config = load_config(None, OPTIONS | {"data": str(digits_file)})
    folder = run_training(config, SingleProcess(), tmp_path_factory.mktemp("whole"), "run").folder
    summary = read_json(folder.summary)
    assert summary["num_steps"] == 3 * STEPS_PER_EPOCH
    return digests(summary)


def digests(summary):
    return {name: summary[name] for name in ("weights_sha256", "tested_weights_sha256")}


def started(program, num_ranks, data):
    ranks = ("-n", num_ranks) if num_ranks else ()
    return program.started("train", "--run-name", "run", "--data", data, *ARGUMENTS, *ranks)


def process_of(job, whom):
    return job.ranks()[whom] if isinstance(whom, int) else job.launcher


def checkpoints_in(program):
    return program.folder / "results/run/checkpoints"


@pytest.mark.parametrize(("name", "num_ranks", "whom"), CASES)
def test_a_signal_stops_in_mid_epoch_and_the_run_can_go_on(
    program, digits_file, uninterrupted, name, num_ranks, whom
):
    with started(program, num_ranks, digits_file) as job:
        program.wait_for((checkpoints_in(program) / "latest").exists)
        job.kill(process_of(job, whom), getattr(signal, name))
        assert job.wait() == 75, job.stderr
    assert "Traceback" not in job.stderr
    (step,) = map(int, STOPPED.findall(job.stdout))
    assert step % STEPS_PER_EPOCH
    newest = CheckpointStore(checkpoints_in(program)).newest(warn=pytest.fail)
    assert newest.facts["step"] == step
    assert not (program.folder / "results/run/summary.json").exists()
    done = program("train", "--resume", "results/run", *(() if num_ranks else ("-n", "2")))
    assert done.returncode == 0, done.stderr
    assert f"Going on after step {step} (" in done.stdout
    assert digests(program.summary("run")) == uninterrupted


@pytest.mark.parametrize(("num_ranks", "whom"), [(None, "process"), (2, 0), (2, 1)])
def test_a_signal_saves_a_checkpoint_and_the_training_goes_on(
    program, digits_file, uninterrupted, num_ranks, whom
):
    def steps():
        return [int(path.stem[5:]) for path in checkpoints_in(program).glob("step-*.safetensors")]

    def in_mid_epoch():
        return [step for step in steps() if step % STEPS_PER_EPOCH]

    with started(program, num_ranks, digits_file) as job:
        program.wait_for((checkpoints_in(program) / "latest").exists)
        assert not in_mid_epoch()
        job.kill(process_of(job, whom), signal.SIGUSR2)
        program.wait_for(in_mid_epoch)
        assert job.wait() == 0, job.stderr
    assert len(in_mid_epoch()) == 1
    assert max(steps()) == 3 * STEPS_PER_EPOCH
    assert not STOPPED.search(job.stdout)
    assert digests(program.summary("run")) == uninterrupted


@pytest.mark.parametrize(("num_ranks", "whom"), [(1, "process"), (2, 0)])
def test_a_second_ctrl_c_ends_at_once_whatever_hangs(program, digits_file, num_ranks, whom):
    command = ("train", "--run-name", "run", "--data", digits_file, *ARGUMENTS)
    started = {
        1: lambda: program.running([sys.executable, HANG_IN_SAVE, *command]),
        2: lambda: program.started_on_ranks(2, HANG_IN_SAVE, *command),
    }[num_ranks]
    with started() as job:
        program.wait_for((checkpoints_in(program) / "latest").exists)
        number = process_of(job, whom)
        job.kill(number, signal.SIGINT)
        program.wait_for(lambda: "The disk hangs." in job.stdout)
        # A launcher may pass one press of the keys on twice, and a scheduler repeats itself.
        for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGTERM"):
            job.kill(number, getattr(signal, name))
        time.sleep(1.5)
        assert job.process.poll() is None
        job.kill(number, signal.SIGINT)
        # The save never ends, so only the signal can have ended the job.
        assert job.wait(60) not in {0, 75}
    assert "Traceback" not in job.stderr
    assert not STOPPED.search(job.stdout)
    assert CheckpointStore(checkpoints_in(program)).newest(warn=pytest.fail).facts["step"] == 0
