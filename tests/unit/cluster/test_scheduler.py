"""What schedulers print, and what it means."""

import stat
import time

import pytest

from lockstep.cluster.pbs import PBS
from lockstep.cluster.scheduler import SchedulerError, call, seconds_of
from lockstep.cluster.schedulers import own_job, scheduler_named
from lockstep.cluster.slurm import Slurm
from lockstep.errors import UserError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("00:30:00", 1800),
        ("2:03:04", 7384),
        ("4:31", 271),
        ("1-02:00:00", 93600),
        ("2-12", 216000),
        ("2-12:30", 217800),
        ("48:00:00", 172800),
        ("UNLIMITED", None),
        ("INVALID", None),
        ("90", None),
        ("", None),
        ("1:2:3:4", None),
        ("-1:00", None),
    ],
)
def test_times_are_read_as_schedulers_write_them(text, seconds):
    assert seconds_of(text) == seconds


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Stand-ins for a scheduler's commands, which print what they are told to."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    def make(name, text, exit_code=0):
        program = tmp_path / name
        output = "" if exit_code == 0 else " >&2"
        program.write_text(f"#!/bin/sh\ncat{output} <<'END'\n{text}\nEND\nexit {exit_code}\n")
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    return make


def test_squeue_tells_of_a_running_and_of_a_waiting_job(commands):
    commands(
        "squeue",
        "71|RUNNING|None||1:00|N/A\n7|SIGNALING|None|node[1-2]|1:02:03|2026-11-23T00:49:08",
    )
    state = Slurm().state("7")
    assert (state.name, state.is_running, state.is_waiting) == ("SIGNALING", True, False)
    assert (state.nodes, state.remaining_s, state.reason) == ("node[1-2]", 3723, "")
    commands("squeue", "7|PENDING|Priority||1:00:00|N/A")
    state = Slurm().state("7")
    assert (state.is_running, state.is_waiting, state.reason, state.start) == (
        False, True, "Priority", "",
    )  # fmt: skip


def test_what_squeue_has_forgotten_is_no_error(commands):
    commands("squeue", "slurm_load_jobs error: Invalid job id specified", 1)
    assert Slurm().state("7") is None
    commands("squeue", "slurm_load_jobs error: Unable to contact slurm controller", 1)
    with pytest.raises(SchedulerError, match=r"exit code 1:\n.*Unable to contact"):
        Slurm().state("7")


QSTAT = """Job Id: 17.server
    Job_Name = run
    job_state = R
    exec_host = a/0*2+b/0*2
    Resource_List.walltime = 00:10:00
    Variable_List = PBS_O_HOME=/home/user,PBS_O_PATH=/usr/local/bin:/usr/bin,
\tPBS_O_WORKDIR=/home/user
    stime = Mon Nov 23 00:49:08 2026"""


def test_qstat_tells_of_a_running_job(commands, monkeypatch):
    commands("qstat", QSTAT)
    began_s = time.mktime((2026, 11, 23, 0, 49, 8, 0, 0, -1))
    monkeypatch.setattr("lockstep.cluster.pbs.time.time", lambda: began_s + 100)
    state = PBS().state("17.server")
    assert (state.name, state.is_running, state.nodes) == ("RUNNING", True, "a/0*2+b/0*2")
    assert state.remaining_s == 500


def test_qstat_tells_why_a_job_waits_and_forgets_it(commands):
    commands("qstat", QSTAT.replace("= R", "= Q") + "\n    comment = Not Running: busy")
    state = PBS().state("17.server")
    assert (state.name, state.is_waiting, state.reason) == ("QUEUED", True, "Not Running: busy")
    commands("qstat", "qstat: Unknown Job Id 17.server", 153)
    assert PBS().state("17.server") is None


def test_job_numbers_are_found_in_what_submission_prints():
    assert Slurm().job_of("123\n") == "123"
    assert Slurm().job_of("sbatch: a note\n123;cluster\n") == "123"
    assert PBS().job_of("17.server.site\n") == "17.server.site"
    for scheduler in (Slurm(), PBS()):
        with pytest.raises(SchedulerError, match="no job number"):
            scheduler.job_of("Welcome!")


def test_a_command_that_is_missing_or_fails_is_named(commands):
    with pytest.raises(SchedulerError, match="no nothing-like-it on the PATH"):
        call(["nothing-like-it"])
    commands("qsub", "qsub: Unknown queue", 1)
    with pytest.raises(SchedulerError, match="qsub 'a b' has failed with exit code 1:\nqsub: Unk"):
        call(["qsub", "a b"])


def test_the_scheduler_that_is_here_is_found(commands, monkeypatch, tmp_path):
    commands("qsub", "")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert scheduler_named("").name == "pbs"
    assert scheduler_named("slurm").name == "slurm"
    (tmp_path / "qsub").unlink()
    with pytest.raises(UserError, match="neither sbatch nor qsub"):
        scheduler_named("")


def test_a_process_knows_its_job_by_its_environment():
    scheduler, job = own_job({"SLURM_JOB_ID": "7"})
    assert (scheduler.name, job) == ("slurm", "7")
    scheduler, job = own_job({"PBS_JOBID": "17.server"})
    assert (scheduler.name, job) == ("pbs", "17.server")
    assert own_job({}) is None


@pytest.mark.parametrize("name", ["SUSPENDED", "COMPLETING", "REQUEUED", "STOPPED"])
def test_a_job_that_has_not_ended_is_no_reason_for_another(commands, name):
    commands("squeue", f"7|{name}|None||1:00|N/A")
    assert Slurm().state("7").is_waiting
