"""Jobs of PBS, with a stand-in for its commands that validates directives: see programs/pbs.py."""

import json
import os
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
PRESET = LAUNCH / "presets" / "digits.toml"
PROGRAMS = Path(__file__).with_name("programs")


class Cluster:
    """A user of the stand-in, in a folder of his own."""

    def __init__(self, program, data):
        self._program, self._data = program, data
        self.results = program.folder / "results"
        self.state = program.folder / "pbs"
        self.state.mkdir()
        commands = program.folder / "bin"
        commands.mkdir()
        for name in ("qsub", "qstat", "qdel"):
            text = f'#!/bin/sh\nexec {program.python} {PROGRAMS / "pbs.py"} {name} "$@"\n'
            (commands / name).write_text(text)
            (commands / name).chmod(0o755)
        path = [str(commands), str(Path(program.python).parent), os.environ["PATH"]]
        self.environment = {
            **program.mpi_settings,
            "PATH": os.pathsep.join(path),
            "PBS_STAND_IN": str(self.state),
            "XDG_CONFIG_HOME": str(program.folder),
        }

    def __call__(self, *command):
        return self._program.run(command, **self.environment)

    def submit(self, *options):
        return self(
            "lockstep", "submit", PRESET, "--scheduler", "pbs", "--data", self._data, "--run-name",
            "run", "--nodes", "1", "--ranks-per-node", "2", "--time", "00:05:00", *options,
        )  # fmt: skip

    def jobs(self):
        """Return what the stand-in knows of all jobs, in their order."""
        files = sorted(self.state.glob("*.json"), key=lambda path: int(path.name.split(".")[0]))
        return [json.loads(file.read_text()) for file in files]

    def wait_for_end(self):
        def are_done():
            jobs = self.jobs()
            return jobs if all(job["state"] == "F" for job in jobs) else None

        return self._program.wait_for(are_done, 170)

    def end_all(self):
        """Delete what is left, and what comes of it, until there is nothing more."""
        while left := [job for job in self.jobs() if job["state"] != "F"]:
            for job in left:
                self("qdel", job["number"])
            self.wait_for_end()

    def log(self):
        files = sorted((self.results / "run" / "job").glob("run.o*"))
        return "".join(file.read_text() for file in files)


@pytest.fixture
def cluster(program, digits_file):
    cluster = Cluster(program, digits_file)
    yield cluster
    cluster.end_all()


@pytest.fixture
def alone(program, digits_file):
    """Return the digest of so many epochs in a single process."""

    def train(epochs):
        done = program("train", PRESET, "--data", digits_file, "--run-name", "alone", "--epochs",
                       epochs)  # fmt: skip
        assert done.returncode == 0, done.stderr
        return program.summary("alone")["weights_sha256"]

    return train


def test_a_submitted_job_gives_the_bits_of_one_process(program, cluster, alone):
    done = cluster.submit("--epochs", "3", "--memory-per-node-mb", "2000", "--partition", "long")
    assert done.returncode == 0, done.stderr
    assert "Submitted job 1.server. See: lockstep status results/run" in done.stdout
    (job,) = cluster.wait_for_end()
    assert job["exit_code"] == 0, cluster.log()
    assert job["options"]["select"] == "1:ncpus=2:mpiprocs=2:ompthreads=1:mem=2000mb"
    assert "ranks 2, virtual ranks 4" in cluster.log()
    assert program.summary("run")["weights_sha256"] == alone(3)


def test_the_state_of_a_job_is_told_and_a_deleted_one_stays_so(program, cluster):
    assert cluster.submit("--epochs", "2000").returncode == 0
    metrics = cluster.results / "run" / "metrics.jsonl"
    program.wait_for(metrics.exists)
    status = cluster("lockstep", "status", "results/run").stdout
    assert "pbs job 1.server is RUNNING on here/0*2 with 4 min" in status
    assert "Expected end" in status
    again = cluster("lockstep", "submit", "--scheduler", "pbs", "--resume", "results/run")
    assert again.returncode == 2
    assert "Job 1.server of results/run is RUNNING already" in again.stderr
    assert cluster("qdel", "1.server").returncode == 0
    (job,) = cluster.wait_for_end()
    assert job["exit_code"] == 75, cluster.log()
    status = cluster("lockstep", "status", "results/run").stdout
    assert "pbs job 1.server is not in the queue any more. Go on with: lockstep submit" in status


def test_a_training_longer_than_a_job_goes_on_in_the_next(program, cluster, alone):
    pauses = f"export PYTHONPATH={PROGRAMS / 'pauses'} LOCKSTEP_PAUSE_S=0.03"
    options = ("--epochs", "10", "--time", "00:00:20", "--until-done", "--setup", pauses)
    assert cluster.submit(*options).returncode == 0
    jobs = cluster.wait_for_end()
    assert len(jobs) > 1, cluster.log()
    assert [job["exit_code"] for job in jobs] == [75] * (len(jobs) - 1) + [0], cluster.log()
    assert jobs[1]["options"]["-W"] == "depend=afterany:1.server"
    assert "for time is short" in cluster.log()
    assert program.summary("run")["weights_sha256"] == alone(10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--partition", "nowhere"], "qsub: Unknown queue"),
        (["--option=-l nodes=2"], "qsub: Unknown resource: nodes"),
        (["--option=-z 1"], "qsub: invalid option -- 'z'"),
    ],
)
def test_what_qsub_refuses_is_told_in_its_own_words(cluster, options, message):
    done = cluster.submit(*options)
    assert done.returncode == 2
    assert message in done.stderr
    assert not list(cluster.results.glob("*"))
    assert not cluster.jobs()


def test_the_script_to_copy_runs_and_goes_on(program, cluster, digits_file, alone):
    for epochs in ("2", "3"):
        options = f"OPTIONS=--data {digits_file} --epochs {epochs}"
        done = cluster("qsub", "-v", f"CONFIG={PRESET},RUN=run,{options}", LAUNCH / "pbs.sh")
        assert done.returncode == 0, done.stderr
        job = cluster.wait_for_end()[-1]
        assert job["exit_code"] == 0, "".join(
            path.read_text() for path in program.folder.glob("lockstep.o*")
        )
    log = (program.folder / "lockstep.o2").read_text()
    assert "Going on after step" in log
    assert "ranks 4, virtual ranks 4" in log
    assert program.summary("run")["num_epochs"] == 3
    # A longer training takes another course; so the same in one process.
    assert program("train", PRESET, "--data", digits_file, "--run-name", "alone", "--epochs",
                   "2").returncode == 0  # fmt: skip
    assert program("train", "--resume", "results/alone", "--epochs", "3").returncode == 0
    digests = [program.summary(run)["weights_sha256"] for run in ("run", "alone")]
    assert digests[0] == digests[1]
