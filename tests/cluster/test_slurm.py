"""A real Slurm of two nodes on this machine, and Lockstep as its job."""

import getpass
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from functools import cache
from importlib.resources import files
from pathlib import Path

import pytest

from lockstep.config import load_config
from lockstep.parallel.launch import library_family, library_version
from lockstep.parallel.single import SingleProcess
from lockstep.storage.run_folder import read_json
from lockstep.train.run import run_training

LAUNCH = Path(__file__).parents[2] / "launch"
README = LAUNCH.with_name("README.md")
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
        # Shared memory that killed ranks of an earlier test run have left is named by the job.
        values["first_job"] = 1000 + secrets.randbelow(10**6)
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
    while call(environment, "sinfo", "-h", "-N", "-p", "p", "-o", "%T").split() != ["idle", "idle"]:
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


PRESET = LAUNCH / "presets" / "digits.toml"
PROGRAMS = Path(__file__).with_name("programs")
INJECT = Path(__file__).parents[1] / "faults" / "programs" / "inject"
PLUGIN = "pmix" if library_family(library_version()) == "Open MPI" else "pmi2"


class Cluster:
    """A user of the cluster, in a folder of his own."""

    def __init__(self, program, slurm, data):
        self._program = program
        self._data = data
        self.results = program.folder / "results"
        path = f"{Path(program.python).parent}{os.pathsep}{os.environ['PATH']}"
        # No defaults of whoever runs the tests.
        self.environment = {**slurm, "PATH": path, "XDG_CONFIG_HOME": str(program.folder)}

    def __call__(self, *command, **environment):
        return self._program.run(command, **self.environment, **environment)

    def submit(self, run, *options):
        """Run `lockstep submit` for a run of the digits, and return the job's number."""
        done = self.try_to_submit(
            PRESET, "--data", self._data, "--run-name", run, "--nodes", "2", "--ranks-per-node",
            "2", "--time", "00:05:00", *options,
        )  # fmt: skip
        return self._number(done)

    def submit_again(self, run, *options):
        return self._number(self.try_to_submit("--resume", f"results/{run}", *options))

    def _number(self, done):
        assert done.returncode == 0, done.stderr
        return done.stdout.partition("Submitted job ")[2].partition(".")[0]

    def try_to_submit(self, *words):
        return self("lockstep", "submit", "--scheduler", "slurm", *words)

    def wait_for_epochs(self, run, number):
        metrics = self.results / run / "metrics.jsonl"
        self._program.wait_for(
            lambda: metrics.exists() and metrics.read_text().count("\n") >= number, LIMIT_S
        )

    def wait_for_end(self, job, limit_s=170):
        """Wait until the job is neither running nor waiting any more, and return its state."""

        def ended():
            state = self("squeue", "-h", "--states=all", f"--jobs={job}", "--format=%T").stdout
            return state.strip() if state.strip() not in _UNDER_WAY else ""

        return self._program.wait_for(ended, limit_s, self._left, _PAUSE_S)

    def wait_until_empty(self, limit_s):
        """Wait until no job is left."""
        self._program.wait_for(
            lambda: not self("squeue", "-h").stdout, limit_s, self._left, _PAUSE_S
        )

    def _left(self):
        """Tell which jobs there are, in which state, and the logs."""
        return "\n".join(
            [
                self("squeue", "--states=all", "--format=%i %T %r %S").stdout,
                *(f"{run.name}:\n{self.log(run.name)}" for run in self.results.glob("*")),
                *(file.read_text() for file in self._program.folder.glob("*.out")),
            ]
        )

    def log(self, run):
        files = sorted((self.results / run / "job").glob("log-*.txt"))
        return "".join(file.read_text() for file in files)

    def events(self, run, event):
        lines = (self.results / run / "job" / "history.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["event"] == event]

    def status(self, run):
        return self("lockstep", "status", f"results/{run}").stdout


# Between two questions to the queue, which take a core from the jobs.
_PAUSE_S = 0.2
_UNDER_WAY = {"RUNNING", "PENDING", "CONFIGURING", "COMPLETING", "REQUEUED", "SIGNALING"}


@pytest.fixture
def cluster(program, slurm, digits_file):
    cluster = Cluster(program, slurm, digits_file)
    yield cluster
    call(slurm, "scancel", f"--user={getpass.getuser()}")
    cluster.wait_until_empty(60)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, digits_file):
    """Return the digest of a training of so many epochs in one process, without any job."""

    @cache
    def digest(epochs):
        folder = tmp_path_factory.mktemp("alone")
        config = load_config(
            PRESET, {"data": str(digits_file), "epochs": str(epochs), "virtual_ranks": "4"}
        )
        run = run_training(config, SingleProcess(), folder, "run", quiet=True)
        return read_json(run.folder.summary)["weights_sha256"]

    return digest


@pytest.mark.timeout(1300)
def test_the_readme_alone_gets_jobs_through(program, cluster, digits_file, uninterrupted):
    (program.folder / "launch").symlink_to(LAUNCH)
    (program.folder / "data").mkdir()
    (program.folder / "data" / "digits.h5").symlink_to(digits_file)
    blocks = re.findall(r"^```sh\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    for block in blocks:
        if block.startswith(("sbatch", "lockstep submit")):
            done = cluster("sh", "-eu", "-c", block)
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
            # Slurm lets a job that is requeued, for whatever reason, wait for two minutes.
            cluster.wait_until_empty(300)
    runs = sorted(cluster.results.glob("*/summary.json"))
    assert len(runs) == 4
    assert {read_json(run)["weights_sha256"] for run in runs} == {uninterrupted(30)}


# MPICH's and Open MPI's ranks find each other by srun and by the library's own mpiexec.
@pytest.mark.parametrize("launcher", ["srun", "mpiexec"])
def test_a_submitted_job_on_two_nodes_gives_the_bits_of_one_process(
    program, cluster, uninterrupted, launcher
):
    job = cluster.submit("run", "--epochs", "5", "--launcher", launcher)
    assert "job " + job in cluster.status("run")
    assert cluster.wait_for_end(job) == "COMPLETED", cluster.log("run")
    assert program.summary("run")["weights_sha256"] == uninterrupted(5)
    facts = read_json(cluster.results / "run" / "run.json")
    assert " between " in facts["reduction"]
    log = cluster.log("run")
    assert ": ranks 4, virtual ranks 4, in results/run" in log
    assert log.count("Epoch 5:") == 1
    assert "5 of 5 epochs done, step 225 of 225" in cluster.status("run")
    assert "finished" in cluster.status("run")


@pytest.mark.parametrize("launcher", ["srun", "mpiexec"])
def test_the_script_to_copy_runs_and_requeues(
    program, cluster, digits_file, uninterrupted, launcher
):
    submitted = cluster(
        "sbatch", "--parsable", "--output=job.log", LAUNCH / "slurm.sbatch", PRESET,
        "--data", digits_file, "--epochs", "30", RUN="copied", LAUNCHER=launcher,
    )  # fmt: skip
    job = submitted.stdout.strip()
    cluster.wait_for_epochs("copied", 1)
    call(cluster.environment, "scancel", "--batch", "--signal=USR1", job)
    assert cluster.wait_for_end(job) == "COMPLETED"
    log = (program.folder / "job.log").read_text()
    assert "Requeueing job" in log
    assert log.count("Going on after step") == 1
    assert program.summary("copied")["weights_sha256"] == uninterrupted(30)


def test_a_cancelled_job_stays_cancelled_and_goes_on_with_other_ranks(
    program, cluster, uninterrupted
):
    job = cluster.submit("run", "--epochs", "60", "--until-done")
    cluster.wait_for_epochs("run", 2)
    status = cluster.status("run")
    assert f"slurm job {job} is RUNNING on node[1-2] with 4 min" in status
    assert "samples/s" in status
    refused = cluster.try_to_submit("--resume", "results/run")
    assert refused.returncode == 2
    assert f"Job {job} of results/run is RUNNING already" in refused.stderr
    call(cluster.environment, "scancel", job)
    assert cluster.wait_for_end(job) == "CANCELLED"
    assert "left to them" in cluster.log("run")
    assert len(cluster.events("run", "started")) == 1
    assert f"slurm job {job} is CANCELLED" in cluster.status("run")

    other = cluster.submit_again("run", "--nodes", "1", "--ranks-per-node", "2", "--epochs=60")
    assert cluster.wait_for_end(other) == "COMPLETED"
    assert "ranks 2, virtual ranks 4" in cluster.log("run")
    assert program.summary("run")["weights_sha256"] == uninterrupted(60)


@pytest.mark.parametrize(
    "stop", [["--batch", "--signal=USR1"], ["--full", "--signal=USR1"], ["--full", "--signal=TERM"]]
)
def test_a_job_that_is_told_to_stop_is_requeued_and_goes_on(program, cluster, uninterrupted, stop):
    # A signal that comes before Lockstep itself is there does no harm.
    job = cluster.submit("run", "--epochs", "30", "--setup", "kill -USR1 $$")
    cluster.wait_for_epochs("run", 1)
    call(cluster.environment, "scancel", *stop, job)
    assert cluster.wait_for_end(job) == "COMPLETED"
    begun = [event["step"] for event in cluster.events("run", "started")]
    assert begun[0] == 0 < begun[1]
    assert len(begun) == 2
    assert program.summary("run")["weights_sha256"] == uninterrupted(30)


def test_a_job_of_low_priority_gives_way_and_goes_on(program, cluster, uninterrupted):
    job = cluster.submit("run", "--epochs", "30", "--partition", "low")
    cluster.wait_for_epochs("run", 1)
    cluster("sbatch", "--partition=high", "--nodes=2", "--output=/dev/null", "--wrap=sleep 3")
    assert cluster.wait_for_end(job) == "COMPLETED", cluster.log("run")
    assert len(cluster.events("run", "started")) == 2
    assert program.summary("run")["weights_sha256"] == uninterrupted(30)


def test_a_job_whose_node_is_lost_goes_on_when_there_are_nodes_again(
    program, cluster, uninterrupted
):
    job = cluster.submit("run", "--epochs", "30")
    cluster.wait_for_epochs("run", 1)
    node2 = ("scontrol", "update", "nodename=node2")
    call(cluster.environment, *node2, "state=down", "reason=test")
    try:
        program.wait_for(lambda: "PENDING" in cluster.status("run"))
    finally:
        # It may have come back by itself.
        cluster(*node2, "state=resume")
    assert cluster.wait_for_end(job) == "COMPLETED", cluster.log("run")
    assert len(cluster.events("run", "started")) == 2
    assert program.summary("run")["weights_sha256"] == uninterrupted(30)


def test_where_requeueing_is_off_the_script_is_submitted_again(program, cluster, uninterrupted):
    job = cluster.submit("run", "--epochs", "30", "--option=--no-requeue")
    cluster.wait_for_epochs("run", 1)
    call(cluster.environment, "scancel", "--batch", "--signal=USR1", job)
    program.wait_for(lambda: len(cluster.events("run", "submitted")) == 2)
    other = cluster.events("run", "submitted")[1]["job"]
    assert cluster.wait_for_end(other) == "COMPLETED"
    log = cluster.log("run")
    assert "scontrol requeue" in log
    assert "Requested operation is presently disabled" in log
    assert f"Submitted job {other}" in log
    assert program.summary("run")["weights_sha256"] == uninterrupted(30)


@pytest.mark.timeout(400)
def test_a_training_longer_than_a_job_takes_as_many_as_it_needs(program, cluster, uninterrupted):
    # Slurm's shortest time, which is longer than it takes without these pauses.
    pauses = f"export PYTHONPATH={PROGRAMS / 'pauses'} LOCKSTEP_PAUSE_S=0.06"
    job = cluster.submit(
        "run", "--epochs", "25", "--time", "00:01:00", "--until-done", "--setup", pauses
    )
    assert cluster.wait_for_end(job, 360) == "COMPLETED", cluster.log("run")
    begun = [event["step"] for event in cluster.events("run", "started")]
    assert len(begun) > 1
    assert begun == sorted(set(begun))
    assert program.summary("run")["weights_sha256"] == uninterrupted(25)


def test_ranks_find_each_other_whatever_lies_in_their_memory(cluster):
    noise = f"export PYTHONPATH={PROGRAMS / 'full_heap'} LOCKSTEP_START_TIMEOUT_S=20"
    job = cluster.submit("run", "--epochs", "1", "--setup", noise)
    assert cluster.wait_for_end(job) == "COMPLETED", cluster.log("run")


def test_a_job_that_comes_no_further_is_not_requeued_for_ever(program, cluster):
    # The third step kills a rank, each time.
    marker = program.folder / "marker"
    fault = f"export PYTHONPATH={INJECT} LOCKSTEP_FAULT=1,3,SIGKILL,{marker}"
    again = f"(for _ in $(seq 300); do sleep 0.2; rm -f {marker}; done) &"
    job = cluster.submit("run", "--epochs", "3", "--setup", fault, "--setup", again)
    assert cluster.wait_for_end(job) == "FAILED", cluster.log("run")
    # Another job, for the first one's number is that of what its killed ranks have left behind.
    _, last = cluster.events("run", "submitted")
    assert cluster.wait_for_end(last["job"]) == "FAILED", cluster.log("run")
    assert len(cluster.events("run", "started")) == 2
    log = cluster.log("run")
    # Where a heartbeat was late, the step before may be told, "or soon after".
    deaths = re.findall(r"^Error: Rank 1 has died .*$", log, re.MULTILINE)
    assert len(deaths) == 6, log
    assert any("in step 3" in death for death in deaths)
    assert "no progress between two restarts: both began after step 0" in log
    assert "lockstep submit --resume results/run" in log
    # Who has mended it may try again.
    mended = cluster.submit_again("run", "--nodes", "2", "--ranks-per-node", "2")
    assert cluster.wait_for_end(mended) == "COMPLETED"


def test_a_plain_srun_stops_in_time_for_the_jobs_end(program, cluster, digits_file):
    script = program.folder / "plain.sh"
    script.write_text(
        "#!/bin/bash\nexport LOCKSTEP_JOB_END=$(($(date +%s) + 20))\n"
        f"srun --mpi={PLUGIN} lockstep train {PRESET} --data {digits_file} --epochs 10000 "
        "--run-name plain\n"
    )
    job = cluster("sbatch", "--parsable", "-N2", "-n4", "--output=job.log", script).stdout.strip()
    assert cluster.wait_for_end(job) == "FAILED"
    log = (program.folder / "job.log").read_text()
    assert "for time is short. Go on with: lockstep train --resume results/plain" in log
    assert "ExitCode=75:0" in call(cluster.environment, "scontrol", "show", "job", job)


def test_what_sbatch_says_is_shown_as_it_is(cluster, digits_file):
    done = cluster.try_to_submit(PRESET, "--data", digits_file, "--partition", "nowhere")
    assert done.returncode == 2
    assert "invalid partition specified: nowhere" in done.stderr
    assert not list(cluster.results.glob("*"))


def test_tasks_that_do_not_find_each_other_are_refused(program, cluster, digits_file):
    job = cluster.submit("run", "--template", no_plugin(program))
    assert cluster.wait_for_end(job) == "FAILED"
    assert cluster.log("run").count("but the MPI library sees 1") == 1
    assert not (cluster.results / "run" / "metrics.jsonl").exists()


def no_plugin(program):
    """Return a site's own template, whose ranks are not told of each other."""
    template = files("lockstep.cluster").joinpath("templates", "slurm.sh.jinja").read_text()
    own = program.folder / "own.jinja"
    own.write_text(template.replace("--launcher", "--launcher-options=--mpi=none --launcher"))
    return own
