"""What `lockstep submit` checks and shows, as far as that needs no scheduler."""

import os
from pathlib import Path

import pytest

from lockstep.config import load_config
from lockstep.errors import RESUMABLE


@pytest.fixture
def submit(program, digits_file):
    """Run `lockstep submit` on a machine without a scheduler and without a site's file."""

    def run(*words, **environment):
        return program(
            "submit", "--data", digits_file, *words, XDG_CONFIG_HOME=program.folder, **environment
        )

    run.folder = program.folder
    return run


def test_a_dry_run_shows_the_script_and_leaves_nothing(submit):
    done = submit("--scheduler", "slurm", "--nodes", "2", "--ranks-per-node", "3", "--dry-run",
                  "--run-name", "run", "--time", "00:10:00", "--until-done")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "6 ranks on 2 nodes, virtual ranks 6" in done.stdout
    assert "#SBATCH --ntasks-per-node=3\n" in done.stdout
    assert '-n "$SLURM_NTASKS" --launcher srun --restarts 2 --requeue until-done\n' in done.stdout
    assert "Nothing was submitted" in done.stdout
    assert not (submit.folder / "results").exists()


def test_the_sites_file_is_read(submit):
    site = submit.folder / "lockstep" / "site.toml"
    site.parent.mkdir()
    site.write_text('scheduler = "pbs"\npartition = "batch"\n')
    done = submit("--dry-run")
    assert done.returncode == 0, done.stderr
    assert "#PBS -q batch\n" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--virtual-ranks", "4", "--nodes", "2", "--ranks-per-node", "4"],
         "There are 8 ranks, but virtual_ranks = 4"),
        (["--epochs", "some"], "--epochs: 'some' won't do"),
        (["--hidden-widths", "20000,20000", "--memory-per-node-mb", "500"],
         "Not enough memory: rank 0 would take about"),
        (["--nodes", "0"], "nodes: Expected int >= 1"),
        (["--time", "soon"], "time: 'soon' is no [days-]hours:minutes:seconds"),
        (["--template", "none.jinja"], "Can't read the template none.jinja"),
        (["--run-name", "a/b"], "a plain name, please"),
        (["--resume", "results/none"], "results/none is no run folder"),
        (["--scheduler", "pbs", "--launcher", "srun"], "--launcher srun is for jobs of Slurm"),
    ],
)  # fmt: skip
def test_what_would_fail_in_the_queue_is_refused_before(submit, words, message):
    done = submit("--scheduler", "slurm", "--dry-run", *words)
    assert done.returncode == 2, done.stdout
    assert message in done.stderr
    assert done.stderr.count("Error: ") == 1
    assert not (submit.folder / "results").exists()


def test_a_data_set_that_is_missing_is_found_before(program):
    done = program("submit", "--scheduler", "slurm", "--data", "none.h5")
    assert done.returncode == 2
    assert "none.h5" in done.stderr


def test_without_a_scheduler_there_is_nothing_to_submit_to(submit):
    python = Path(submit.folder / "bin")
    python.mkdir()
    done = submit(PATH=str(python))
    assert done.returncode == 2
    assert "neither sbatch nor qsub" in done.stderr
    assert "--dry-run" in done.stderr


def test_a_scheduler_whose_commands_are_missing_is_named(submit):
    done = submit("--scheduler", "slurm", PATH=os.devnull)
    assert done.returncode == 2
    assert "There is no sbatch on the PATH of this machine." in done.stderr
    assert not (submit.folder / "results").exists()


def test_requeueing_is_for_jobs(program, digits_file):
    done = program("train", "--data", digits_file, "-n", "1", "--requeue", "until-done")
    assert done.returncode == 2
    assert "--requeue is for the script of a batch job, and this is none" in done.stderr
    assert not list((program.folder / "results").glob("*"))


# Sends a signal to the job's own process, not to its ranks, as soon as there is anything to import.
EARLY = """
import os, signal, sys

class Early:
    def find_spec(self, name, *_):
        if name == "lockstep.cli" and "--requeue" in sys.argv:
            os.kill(os.getpid(), signal.SIGNUMBER)

sys.meta_path.insert(0, Early())
"""


@pytest.mark.parametrize("number", ["USR1", "TERM"])
def test_a_job_that_is_told_to_stop_while_it_starts_is_requeued_too(program, digits_file, number):
    (program.folder / "sitecustomize.py").write_text(EARLY.replace("NUMBER", number))
    for name, body in {
        "squeue": "echo '7|RUNNING|None|here|1:00:00|N/A'",
        "scontrol": f'echo "$@" > {program.folder}/called',
    }.items():
        (program.folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (program.folder / name).chmod(0o755)
    done = program(
        "train", "--data", digits_file, "--run-name", "run", "-n", "2", "--requeue", "interrupted",
        "--epochs", "1000",  # so that it is not done before the signal has reached it
        SLURM_JOB_ID="7", PYTHONPATH=program.folder, **program.mpi_settings,
        PATH=f"{program.folder}{os.pathsep}{os.environ['PATH']}",
    )  # fmt: skip
    assert done.returncode == RESUMABLE, done.stderr
    assert (program.folder / "called").read_text() == "requeue 7\n"


def test_going_on_takes_up_a_run_of_that_name(program, digits_file):
    (program.folder / "own.toml").write_text("[training]\nepochs = 2\nvirtual_ranks = 2\n")
    command = ("train", "own.toml", "--data", digits_file, "--run-name", "run", "--go-on")
    assert "Epoch 2:" in program(*command).stdout
    again = program(*command, "-n", "2", "--epochs", "3")
    assert again.returncode == 0, again.stderr
    assert "Going on after step" in again.stdout
    assert "Epoch 3:" in again.stdout
    assert load_config(program.folder / "results/run/config.toml", {}).training.epochs == 3

    (program.folder / "own.toml").write_text("[training]\nepochs = 3\nseed = 1\n")
    other = program(*command)
    assert other.returncode == 2
    assert "training.seed was 0, now it is 1" in other.stderr
    nameless = program("train", "--data", digits_file, "--go-on")
    assert "--go-on needs --run-name" in nameless.stderr
