"""What tests of several rooms share."""

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import MappingProxyType

import pytest

from lockstep.data.convert import convert
from lockstep.storage.checkpoint import CheckpointStore
from lockstep.storage.run_folder import RunFolder, read_json, read_json_lines


@pytest.fixture
def mnist_folder():
    folder = os.environ.get("LOCKSTEP_MNIST")
    if not folder:
        pytest.skip("LOCKSTEP_MNIST doesn't name the folder of MNIST's four IDX files")
    return Path(folder)


@pytest.fixture(scope="session")
def digits_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "digits.h5"
    convert("digits", path)
    return path


@pytest.fixture(scope="session")
def left_behind():
    """Return what gives all of a finished run that ranks, stops and kills must not change."""
    return _left_behind


def _left_behind(path):
    folder = RunFolder(path)
    checkpoint = CheckpointStore(folder.checkpoints).newest(warn=pytest.fail)
    assert any(name.startswith("layers.") for name in checkpoint.arrays)
    return {
        "summary": _without_times(read_json(folder.summary)),
        "metrics": [_without_times(line) for line in read_json_lines(folder.metrics)],
        "trace": read_json_lines(folder.trace) if folder.trace.exists() else [],
        "facts": _without_times(checkpoint.facts),
        "arrays": {name: array.tobytes() for name, array in checkpoint.arrays.items()},
        "best": (folder.checkpoints / "best").read_text(),
        "config": folder.config.read_text(),
        "figures": folder.figures.read_bytes(),
    }


def _without_times(line):
    return {name: value for name, value in line.items() if not name.endswith("_s")}


def without_zeros(text):
    """Leave out what Open MPI ends its messages with, at the beginning of somebody else's line."""
    return text.replace("\0", "")


def exit_code_told(exit_code, errors):
    """Return a launcher's exit code, or what it should have been.

    Open MPI's mpiexec rarely crashes after a rank has called MPI_Abort: it has told of that and
    ended all ranks, and is then itself ended by SIGSEGV, not with the code that it has told
    (open-mpi/ompi#13650). Of several ranks that have called it, it may name another one.
    """
    told = re.search(
        r"MPI_ABORT was invoked on rank .*?Errorcode: (\d+)\n.*?"
        r'prterun has exited due to process rank \d+ with [^"]* calling\s+"abort"',
        errors,
        re.DOTALL,
    )
    return int(told[1]) if told and exit_code == -signal.SIGSEGV else exit_code


class Job:
    """A command that is under way, and all processes that have come of it.

    They are known by a variable that all of them inherit, for the ranks of a killed launcher are
    nobody's children any more.
    """

    variable = "LOCKSTEP_TEST_JOB"

    def __init__(self, process, name, output, errors):
        self.process = process
        self._entry = f"{self.variable}={name}"
        self._output, self._errors = output, errors

    @property
    def stdout(self):
        return self._output.read_text()

    @property
    def stderr(self):
        return without_zeros(self._errors.read_text())

    @property
    def launcher(self):
        return self.process.pid

    def processes(self):
        """Return the environments of the processes that are there, by their numbers."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/environ"):
            # A process may end meanwhile; one that has ended has no environment.
            with contextlib.suppress(OSError):
                entries = path.read_bytes().decode(errors="replace").split("\0")
                if self._entry in entries:
                    found[int(path.parent.name)] = dict(e.partition("=")[::2] for e in entries)
        return found

    def ranks(self):
        """Return the process of each rank, by what the environments say."""
        ranks = {}
        for number, environment in sorted(self.processes().items(), reverse=True):
            rank = environment.get("PMI_RANK") or environment.get("OMPI_COMM_WORLD_RANK")
            if rank is not None:
                # What a rank has started comes after it.
                ranks[int(rank)] = number
        return dict(sorted(ranks.items()))

    def kill(self, number, signal_number=signal.SIGKILL):
        """Send a signal to a process that may have ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal_number)

    def kill_all(self):
        """Return when no process is left."""

        def are_gone():
            numbers = self.processes()
            for number in numbers:
                self.kill(number)
            return self.process.poll() is not None and not numbers

        Program.wait_for(are_gone)

    def wait(self, limit_s=170):
        """Return the exit code; no process may be left behind."""
        exit_code = self.process.wait(limit_s)
        Program.wait_for(lambda: not self.processes())
        return exit_code_told(exit_code, self.stderr)


class Program:
    """Runs commands as a user does, in a folder of their own."""

    def __init__(self, folder):
        self.folder = folder
        # A rank that hangs must fail its test and not the whole suite.
        self.timeout_s = 170

    python = sys.executable
    # Open MPI refuses root, and more ranks than cores, unless told otherwise.
    mpi_settings = MappingProxyType({
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": "slot:oversubscribe",
    })  # fmt: skip

    def __call__(self, *command, **environment):
        """Run `lockstep COMMAND...`."""
        return self.run([Path(sys.executable).with_name("lockstep"), *command], **environment)

    def on_ranks(self, num_ranks, *command, **environment):
        """Run a Python module or script on MPI ranks, by the mpiexec beside this Python."""
        mpiexec = Path(sys.executable).with_name("mpiexec")
        program = [mpiexec, "-n", str(num_ranks), sys.executable, *command]
        return self.run(program, **self.mpi_settings, **environment)

    def run(self, command, **environment):
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env=self._environment(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=self.timeout_s,
            check=False,
        )
        done.stderr = without_zeros(done.stderr)
        done.returncode = exit_code_told(done.returncode, done.stderr)
        return done

    @contextlib.contextmanager
    def started(self, *command, **environment):
        """Start `lockstep COMMAND...` and give the job, of which nothing is left afterwards."""
        command = [Path(sys.executable).with_name("lockstep"), *command]
        with self.running(command, **environment) as job:
            yield job

    @contextlib.contextmanager
    def started_on_ranks(self, num_ranks, *command, **environment):
        """Start a Python module or script on MPI ranks; see `on_ranks` and `started`."""
        mpiexec = Path(sys.executable).with_name("mpiexec")
        command = [mpiexec, "-n", str(num_ranks), sys.executable, *command]
        with self.running(command, **self.mpi_settings, **environment) as job:
            yield job

    @contextlib.contextmanager
    def running(self, command, **environment):
        name = secrets.token_hex(8)
        output, errors = (self.folder / f"{name}.{stream}" for stream in ("out", "err"))
        with output.open("w") as stdout, errors.open("w") as stderr:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=self.folder,
                env=self._environment({**environment, Job.variable: name}),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                # Signals for the job are none for the tests.
                start_new_session=True,
            )
        job = Job(process, name, output, errors)
        try:
            yield job
        finally:
            job.kill_all()

    def _environment(self, changes):
        return {**os.environ, "OMP_NUM_THREADS": "1", **changes}

    exit_code_told = staticmethod(exit_code_told)

    @staticmethod
    def wait_for(condition, limit_s=60, tell=lambda: "nothing happened", pause_s=0.01):
        """Return what the condition says as soon as that is something, or fail and tell."""
        end = time.monotonic() + limit_s
        while not (found := condition()):
            assert time.monotonic() < end, tell()
            time.sleep(pause_s)
        return found

    def summary(self, run):
        return json.loads((self.folder / "results" / run / "summary.json").read_text())


@pytest.fixture
def program(tmp_path):
    before = _shared_memory()
    yield Program(tmp_path)
    # MPICH leaves its segments behind when a job ends abnormally. Other jobs need theirs.
    for path in _shared_memory() - before - _mapped():
        path.unlink(missing_ok=True)


def _shared_memory():
    return set(Path("/dev/shm").glob("mpich_shm_*"))


def _mapped():
    """Return the segments that processes use."""
    mapped = set()
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):
            mapped |= {
                Path(line.split()[-1])
                for line in maps.read_text().splitlines()
                if "mpich_shm_" in line
            }
    return mapped
