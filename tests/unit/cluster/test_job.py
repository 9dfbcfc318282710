"""When a job begins again, and how."""

import math
import os
import signal
import time

import pytest

from lockstep.cluster import job as module
from lockstep.cluster.history import History
from lockstep.cluster.job import Job, job_end_s
from lockstep.cluster.scheduler import JobState, SchedulerError
from lockstep.cluster.slurm import Slurm
from lockstep.errors import RANK_LOST, RESUMABLE, SharedFailureError, UserError
from lockstep.storage.run_folder import RunFolder


class Scheduler(Slurm):
    """Slurm without its commands: keeps what would be run, and fails where it is told to."""

    def __init__(self):
        self.calls, self.failing = [], set()
        self.told = JobState("RUNNING", is_running=True)

    def state(self, _):
        if self.told is None:
            raise SchedulerError("There is no squeue on the PATH of this machine.")
        return self.told

    def call(self, command):
        self.calls.append(" ".join(command))
        if command[0] in self.failing:
            raise SchedulerError(f"There is no {command[0]} on the PATH of this machine.")
        return "8\n"


@pytest.fixture
def scheduler(monkeypatch):
    scheduler = Scheduler()
    monkeypatch.setattr(module, "call", scheduler.call)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return scheduler


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.job.mkdir(parents=True)
    folder.checkpoints.mkdir()
    folder.config.touch()
    folder.job_script.touch()
    return folder


def end(scheduler, folder, ending, requeue="interrupted", *, is_time_up=False):
    job = Job(scheduler, "7", folder, requeue)
    job.begin()
    if is_time_up:
        History(folder).time_is_up(5)
    assert job.end(ending) == ending
    return scheduler.calls


REQUEUED, SUBMITTED = ["scontrol requeue 7"], "sbatch --parsable --dependency=afterany:7 "


@pytest.mark.parametrize(
    ("ending", "requeue", "expected"),
    [
        (RESUMABLE, "interrupted", REQUEUED),
        (RESUMABLE, "until-done", REQUEUED),
        (0, "until-done", []),
        (1, "until-done", []),
        (2, "until-done", []),
        (130, "until-done", []),
    ],
)
def test_whether_a_job_begins_again(scheduler, folder, ending, requeue, expected):
    assert end(scheduler, folder, ending, requeue) == expected


@pytest.mark.parametrize(("requeue", "expected"), [("interrupted", []), ("until-done", REQUEUED)])
def test_a_training_that_has_stopped_in_time_goes_on_only_if_that_is_wanted(
    scheduler, folder, requeue, expected
):
    assert end(scheduler, folder, RESUMABLE, requeue, is_time_up=True) == expected


@pytest.mark.parametrize(("left_s", "expected"), [(60, []), (600, REQUEUED)])
def test_a_signal_shortly_before_the_end_tells_of_it(
    scheduler, folder, monkeypatch, left_s, expected
):
    monkeypatch.setenv("LOCKSTEP_JOB_END", str(int(time.time()) + left_s))
    assert end(scheduler, folder, RESUMABLE) == expected


@pytest.mark.parametrize("state", [JobState("COMPLETING"), JobState("PENDING", is_waiting=True)])
def test_what_others_have_cancelled_or_requeued_is_left_alone(scheduler, folder, state, capsys):
    scheduler.told = state
    assert end(scheduler, folder, RESUMABLE) == []
    assert "left to them" in capsys.readouterr().out


@pytest.mark.parametrize("requeue", ["interrupted", "until-done"])
def test_after_the_loss_of_a_rank_another_job_goes_on(scheduler, folder, requeue):
    assert end(scheduler, folder, RANK_LOST, requeue) == [f"{SUBMITTED}{folder.job_script}"]


def test_what_has_not_begun_is_not_begun_for_ever(scheduler, folder):
    folder.config.unlink()
    assert end(scheduler, folder, RANK_LOST, "until-done") == []


@pytest.mark.parametrize(("left_s", "expected"), [(60, []), (600, REQUEUED)])
def test_what_was_stopped_before_it_had_begun_begins_again_unless_its_time_is_too_short(
    scheduler, folder, monkeypatch, left_s, expected
):
    monkeypatch.setenv("LOCKSTEP_JOB_END", str(int(time.time()) + left_s))
    folder.config.unlink()
    assert end(scheduler, folder, RESUMABLE, "until-done") == expected


@pytest.mark.parametrize(("is_time_up", "num_calls"), [(False, 0), (True, 1)])
def test_where_a_cancelled_job_looks_like_a_running_one_a_signal_is_none_to_go_on_at(
    scheduler, folder, is_time_up, num_calls
):
    scheduler.tells_cancellation = False
    calls = end(scheduler, folder, RESUMABLE, "until-done", is_time_up=is_time_up)
    assert len(calls) == num_calls


def test_signals_do_not_keep_a_job_from_going_on(scheduler, folder, monkeypatch):
    def call(command):
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        return scheduler.call(command)

    monkeypatch.setattr(module, "call", call)
    assert end(scheduler, folder, RESUMABLE) == REQUEUED


def test_where_squeue_is_missing_it_is_tried_all_the_same(scheduler, folder):
    scheduler.told = None
    assert end(scheduler, folder, RESUMABLE) == REQUEUED


def test_where_scontrol_is_missing_the_script_is_submitted_again(scheduler, folder, capsys):
    scheduler.failing = {"scontrol"}
    again = f"{SUBMITTED}{folder.job_script}"
    assert end(scheduler, folder, RESUMABLE) == [*REQUEUED, again]
    told = capsys.readouterr()
    assert "There is no scontrol" in told.err
    assert "Submitted job 8" in told.out
    assert History(folder).job()["job"] == "8"


def test_where_neither_works_the_way_to_go_on_is_told(scheduler, folder, capsys):
    scheduler.failing = {"scontrol", "sbatch"}
    end(scheduler, folder, RESUMABLE)
    told = capsys.readouterr().err
    assert "Error: There is no sbatch" in told
    assert f"lockstep submit --resume {folder.path}" in told


def test_a_script_that_was_copied_can_only_be_requeued(scheduler, folder, capsys):
    scheduler.failing = {"scontrol"}
    folder.job_script.unlink()
    assert end(scheduler, folder, RESUMABLE) == REQUEUED
    assert "Error: There is no scontrol" in capsys.readouterr().err


def test_a_job_that_comes_no_further_ends(scheduler, folder):
    end(scheduler, folder, RANK_LOST)
    job = Job(scheduler, "7", folder, "interrupted")
    job.begin()
    with pytest.raises(SharedFailureError, match="no progress between two restarts: both began af"):
        job.end(RANK_LOST)
    with pytest.raises(SharedFailureError):
        Job(scheduler, "7", folder, "interrupted").begin()
    (folder.checkpoints / "step-00000010.safetensors").touch()
    Job(scheduler, "7", folder, "interrupted").begin()
    assert History(folder).job()["step"] == 10


def test_the_end_of_a_job_is_what_its_scheduler_says(monkeypatch, scheduler):
    assert job_end_s({}) == math.inf
    assert job_end_s({"LOCKSTEP_JOB_END": "123"}) == 123
    assert job_end_s({"LOCKSTEP_JOB_END": ""}) == math.inf
    with pytest.raises(UserError, match="LOCKSTEP_JOB_END=soon"):
        job_end_s({"LOCKSTEP_JOB_END": "soon"})
    scheduler.told = JobState("RUNNING", is_running=True, remaining_s=100.0)
    monkeypatch.setattr(module, "own_job", lambda _: (scheduler, "7"))
    assert 0 <= job_end_s({}) - time.time() - 99 < 2
    scheduler.told = None
    assert job_end_s({}) == math.inf
