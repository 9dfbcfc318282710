"""What tests of several rooms share."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType

import pytest

from lockstep.data.convert import convert


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
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
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
        return subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=self.timeout_s,
            check=False,
        )

    def summary(self, run):
        return json.loads((self.folder / "results" / run / "summary.json").read_text())


@pytest.fixture
def program(tmp_path):
    before = _shared_memory()
    yield Program(tmp_path)
    # MPICH leaves its segments behind when a job ends abnormally.
    for path in _shared_memory() - before:
        path.unlink(missing_ok=True)


def _shared_memory():
    return set(Path("/dev/shm").glob("mpich_shm_*"))
