"""An MPI that is there and doesn't work, or isn't there."""

import os
import shutil
import time
from pathlib import Path

import pytest

from lockstep.doctor import mpi
from lockstep.errors import UserError


@pytest.fixture
def job(monkeypatch, tmp_path):
    """Let a shell script stand for the ranks; give what is found."""
    monkeypatch.setattr(mpi, "library_version", lambda: "MPICH Version: 5.0.2\nmore")
    monkeypatch.setattr(mpi, "find_mpiexec", lambda library: Path("/opt/mpich/bin/mpiexec"))
    monkeypatch.setattr(shutil, "which", lambda program: None)

    def run(script):
        command = ["/bin/sh", "-c", script], dict(os.environ)
        monkeypatch.setattr(mpi.Launch, "command", lambda launch, arguments: command)
        return list(mpi.examine(2))

    return run


def test_ranks_tell_their_findings(job):
    told = '{"usable": true, "findings": [{"severity": "note", "topic": "Ranks", "text": "x"}]}'
    library, start, found = job(f"echo noise of the library; echo '{told}'")
    assert library.text.startswith("MPICH Version: 5.0.2, loaded by mpi4py 4")
    assert start.severity == "ok"
    assert (found.severity, found.topic, found.text) == ("note", "Ranks", "x")


def test_ranks_that_fail_are_broken_and_their_last_words_told(job):
    *_, found = job("echo 'cannot open socket' >&2; exit 3")
    assert found.severity == "broken"
    assert "exit code 3" in found.text
    assert found.text.endswith("\ncannot open socket")
    assert "hostname" in found.remedy


def test_an_exit_code_of_0_proves_nothing(job):
    *_, found = job("exit 0")
    assert found.severity == "broken"


def test_ranks_that_hang_are_ended_with_all_that_they_have_started(job, monkeypatch, tmp_path):
    monkeypatch.setattr(mpi, "_LIMIT_S", 0.5)
    *_, found = job(f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    assert found.severity == "broken"
    assert "not done after 0.5 s" in found.text
    status = Path("/proc", (tmp_path / "pid").read_text().strip(), "stat")
    end = time.monotonic() + 60
    # A process that nobody waits for stays listed as a zombie.
    while status.exists() and status.read_text().split()[2] != "Z":
        assert time.monotonic() < end
        time.sleep(0.01)


def refuse(*arguments):
    raise UserError("no mpiexec of MPICH on the PATH")


@pytest.mark.parametrize(("srun", "severity"), [(None, "broken"), ("/usr/bin/srun", "note")])
def test_no_launcher_is_no_matter_where_slurm_is_one(job, monkeypatch, srun, severity):
    monkeypatch.setattr(mpi, "find_mpiexec", refuse)
    monkeypatch.setattr(shutil, "which", lambda program: srun if program == "srun" else None)
    found = job("")[1]
    assert found.severity == severity
    assert "no mpiexec of MPICH" in found.text
    assert ("srun" in found.remedy) == (srun is not None)


def test_no_library_is_fine_for_a_single_process(monkeypatch):
    monkeypatch.setattr(mpi, "library_version", refuse)
    monkeypatch.setattr(shutil, "which", lambda program: None)
    found, *ranks = mpi.examine(2)
    assert found.severity == "note"
    assert "pip install mpich" in found.remedy
    assert "1 rank on 1 host" in ranks[0].text
    # But whoever has a launcher believes that there is a library.
    monkeypatch.setattr(shutil, "which", lambda program: f"/opt/bin/{program}")
    found, *_ = mpi.examine(2)
    assert found.severity == "warning"
    assert "/opt/bin/mpiexec" in found.text


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("echo 'mpiexec (Open MPI) 5.0.11'", "belongs to Open MPI"),
        ("exit 1", "does not even tell its version"),
        ("echo 'HYDRA build details'", None),
    ],
)
def test_another_librarys_mpiexec_first_on_the_path_is_named(
    job, monkeypatch, tmp_path, script, told
):
    mpiexec = tmp_path / "mpiexec"
    mpiexec.write_text(f"#!/bin/sh\n{script}\n")
    mpiexec.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda program: str(mpiexec))
    texts = [found.text for found in job("exit 1") if found.severity == "warning"]
    assert texts == ([f"The first mpiexec on the PATH, {mpiexec}, {told}."] if told else [])
