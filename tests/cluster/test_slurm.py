"""A real Slurm of two nodes on this machine, and Lockstep as its job."""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
LIMIT_S = 60


@pytest.fixture(scope="module")
def slurm():
    """Start munged, slurmctld and two slurmd; give the environment that reaches them."""
    if not all(map(shutil.which, ("slurmctld", "slurmd", "munged"))):
        pytest.skip("Slurm is not installed (Debian: slurm-wlm, munge)")
    if os.geteuid() != 0:
        pytest.skip("slurmd runs jobs as root only")
    # Sockets have short paths, so it is not pytest's own folder.
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = Path(name)
        for part in ("munge", "state", "spool", "log", "tmp/node1", "tmp/node2"):
            (folder / part).mkdir(parents=True)
        folder.chmod(0o755)
        template = Path(__file__).with_name("slurm.conf.in").read_text()
        values = {"folder": folder, "host": socket.gethostname(), "user": getpass.getuser()}
        (folder / "slurm.conf").write_text(template.format(**values))
        environment = {"SLURM_CONF": str(folder / "slurm.conf")}
        try:
            start(folder, environment)
            yield environment
        finally:
            for pid_file in [*folder.glob("*.pid"), *folder.glob("munge/*.pid")]:
                stop(int(pid_file.read_text()))


def start(folder, environment):
    munge = folder / "munge"
    key = munge / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    files = {"key-file": key, "socket": munge / "munge.socket", "pid-file": munge / "munged.pid",
             "log-file": munge / "munged.log", "seed-file": munge / "munged.seed"}  # fmt: skip
    call(environment, "munged", "--force", *(f"--{name}={path}" for name, path in files.items()))
    call(environment, "slurmctld")
    for node in ("node1", "node2"):
        call(environment, "slurmd", "-N", node)
    end = time.monotonic() + LIMIT_S
    while call(environment, "sinfo", "-h", "-N", "-o", "%T").split() != ["idle", "idle"]:
        assert time.monotonic() < end, "the nodes are not idle"
        time.sleep(0.2)


def call(environment, *command):
    return subprocess.run(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True,
        check=True, timeout=LIMIT_S,
    ).stdout  # fmt: skip


def stop(pid):
    os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + LIMIT_S
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.1)


@pytest.fixture
def job(program, slurm, digits_file):
    """Run the job script and wait for it; give its exit code and what it wrote."""
    path = f"{Path(program.python).parent}{os.pathsep}{os.environ['PATH']}"

    def submit(name, *options, **environment):
        done = program.run(
            ["sbatch", "--wait", "--output=job.log", LAUNCH / "slurm.sbatch",
             LAUNCH / "presets" / "digits.toml", "--data", digits_file, "--epochs", "3",
             "--run-name", name, *options],
            PATH=path, **slurm, **environment,
        )  # fmt: skip
        assert "Submitted batch job" in done.stdout, done.stderr
        return done.returncode, (program.folder / "job.log").read_text()

    return submit


def test_two_nodes_give_the_bits_of_one_process(program, job, digits_file):
    exit_code, log = job("on-slurm")
    assert exit_code == 0, log
    alone = program("train", LAUNCH / "presets" / "digits.toml", "--data", digits_file,
                    "--epochs", "3", "--run-name", "alone")  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    expected = program.summary("alone")
    found = program.summary("on-slurm")
    assert found["weights_sha256"] == expected["weights_sha256"]
    assert found["confusion_matrix"] == expected["confusion_matrix"]
    assert log.count("Epoch 3:") == 1
    assert ": ranks 4, virtual ranks 4, in" in log


def test_a_job_that_is_told_to_stop_goes_on_anywhere(program, slurm, digits_file):
    path = f"{Path(program.python).parent}{os.pathsep}{os.environ['PATH']}"
    options = ("--data", digits_file, "--epochs", "400", "--checkpoint-every-steps", "50")
    submitted = program.run(
        ["sbatch", "--parsable", "--output=job.log", LAUNCH / "slurm.sbatch",
         LAUNCH / "presets" / "digits.toml", *options, "--run-name", "stopped"],
        PATH=path, **slurm,
    )  # fmt: skip
    job = submitted.stdout.strip()
    run = program.folder / "results/stopped"
    program.wait_for((run / "metrics.jsonl").exists)
    # As a scheduler does before it takes the nodes away.
    call(slurm, "scancel", "--signal=USR1", job)
    log = program.folder / "job.log"
    program.wait_for(lambda: "Stopped after step" in log.read_text())
    assert "Go on with: lockstep train --resume results/stopped" in log.read_text()
    program.wait_for(lambda: "ExitCode=75:0" in call(slurm, "scontrol", "show", "job", job))

    # Four ranks on two nodes there, a single process here.
    resumed = program("train", "--resume", "results/stopped")
    assert resumed.returncode == 0, resumed.stderr
    preset = LAUNCH / "presets" / "digits.toml"
    alone = program("train", preset, *options, "--run-name", "alone")
    assert alone.returncode == 0, alone.stderr
    digests = [program.summary(name)["weights_sha256"] for name in ("stopped", "alone")]
    assert digests[0] == digests[1]


def test_tasks_that_do_not_find_each_other_are_refused(program, job):
    exit_code, log = job("lost", MPI_PLUGIN="none")
    assert exit_code != 0
    assert log.count("but the MPI library sees 1") == 1, log
    assert not (program.folder / "results").exists()
