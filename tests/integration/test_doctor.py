"""The look at the machine as a user takes it, with real programs."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from lockstep.train import fingerprint


def findings_of(done):
    told = json.loads(done.stdout)
    assert told["usable"] == (done.returncode == 0), done.stderr
    assert done.returncode in {0, 1}
    return told["findings"]


def find(findings, words):
    (found,) = [one for one in findings if words in one["text"]]
    return found


def test_a_machine_that_works_is_usable(program, digits_file):
    done = program("doctor", "--data", digits_file)
    assert done.returncode == 0, done.stdout
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    topics = [line for line in lines if line and not line.startswith(" ")]
    assert topics[:-1] == ["Machine", "MPI", "Ranks", "BLAS", "Files"]
    assert "findings: " in topics[-1]
    for words in (
        "2 ranks, started by", "find each other", "to the last bit", "MPI_Allreduce",
        "256x1024x1024", "(in use)", "1,437 training rows", "free for results",
    ):  # fmt: skip
        assert words in done.stdout


def test_ranks_of_a_launcher_take_part(program):
    done = program.on_ranks(3, "-m", "lockstep", "doctor", "--json")
    findings = findings_of(done)
    binding = find(findings, "3 ranks on 1 host")["figures"]["binding"]
    cores = sorted(os.sched_getaffinity(0))
    assert len(binding) == 3
    assert all(set(one["cores"]) <= set(cores) for one in binding)
    assert find(findings, "the launcher's 3 ranks find each other")["severity"] == "ok"
    again = program.on_ranks(2, "-m", "lockstep", "doctor", "-n", "2")
    assert again.returncode == 2
    assert again.stderr.count("drop -n") == 1


@pytest.mark.skipif(platform.machine() != "x86_64", reason="Prescott kernels are for x86")
def test_a_slow_kernel_that_is_pinned_is_named(program):
    done = program("doctor", "--json", OPENBLAS_CORETYPE="Prescott", OPENBLAS_L2_SIZE="512")
    findings = findings_of(done)
    library = find(findings, "with kernels for")
    if library["figures"]["kernel"] == fingerprint.blas()["kernel"]:
        pytest.skip("NumPy's BLAS has but one set of kernels here")
    assert "OPENBLAS_CORETYPE=Prescott" in library["text"]
    products = find(findings, "Matrix products")
    assert products["severity"] == "warning"
    assert products["remedy"].startswith(
        "OPENBLAS_CORETYPE=Prescott and OPENBLAS_L2_SIZE=512 are set"
    )
    assert "`unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE`" in products["remedy"]
    assert "unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE" in products["figures"]


def library_file():
    """Return the file of the MPI library that mpi4py loads."""
    code = (
        "from mpi4py import MPI; "
        "print(next(line.split()[-1] for line in open('/proc/self/maps') if '/libmpi' in line))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return told.stdout.splitlines()[-1]


@pytest.fixture
def bare_python(tmp_path):
    """A Python that has all packages of this one, but no mpiexec beside it."""
    folder = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python3*/site-packages")
    paths = [path for path in sys.path if path.endswith("site-packages")]
    source = Path(fingerprint.__file__).parents[2]
    (site / "all.pth").write_text("\n".join([*paths, str(source)]))
    return folder / "bin" / "python"


def test_a_broken_mpiexec_is_named(program, bare_python):
    library = library_file()
    family = "mpiexec (Open MPI) 5.0.11" if ".so.40" in library else "HYDRA build details"
    fakes = program.folder / "fakes"
    fakes.mkdir()
    (fakes / "mpiexec").write_text(
        f"#!/bin/sh\ncase $1 in --version) echo '{family}'; exit 0;; esac\n"
        "echo 'cannot open socket' >&2\nexit 3\n"
    )
    (fakes / "mpiexec").chmod(0o755)
    done = program.run(
        [bare_python, "-m", "lockstep", "doctor", "--json"],
        PATH=f"{fakes}:/usr/bin:/bin",
        MPI4PY_LIBMPI=library,
    )
    findings = findings_of(done)
    assert done.returncode == 1
    found = find(findings, "cannot open socket")
    assert found["severity"] == "broken"
    assert found["topic"] == "MPI"
    assert f"{fakes / 'mpiexec'} -n 2 hostname" in found["remedy"]
    # The rest is looked at all the same.
    assert find(findings, "Matrix products")["figures"]


def test_without_an_mpi_library_and_without_data(program):
    # Importing it would end the process with an error.
    (program.folder / "mpi4py.py").write_text("raise ImportError('no MPI library')\n")
    done = program("doctor", "--json", "--data", "no.h5", PYTHONPATH=str(program.folder))
    findings = findings_of(done)
    assert done.returncode == 1
    (broken,) = [one["text"] for one in findings if one["severity"] == "broken"]
    assert "The dataset file no.h5 doesn't exist." in broken
    (first, *_) = [one for one in findings if one["topic"] == "MPI"]
    assert "pip install mpich" in first["text"] + first["remedy"]
    assert find(findings, "1 rank on 1 host")
