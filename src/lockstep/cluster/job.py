"""A run's job, seen from within: when its time is up, and how it begins again."""

import math
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import click

from lockstep.cluster.history import History
from lockstep.cluster.request import quoted
from lockstep.cluster.scheduler import Scheduler, SchedulerError, call
from lockstep.cluster.schedulers import own_job
from lockstep.errors import RANK_LOST, RESUMABLE, SharedFailureError, UserError
from lockstep.storage.checkpoint import CheckpointStore
from lockstep.storage.run_folder import RunFolder
from lockstep.train.requests import SAVE_SIGNALS, STOP_SIGNALS

REQUEUE_WHEN = ("never", "interrupted", "until-done")
# The end of the job in seconds since 1970, for where no scheduler tells it.
JOB_END = "LOCKSTEP_JOB_END"
# A signal that comes so soon before the end tells of it: the scripts ask for a minute, and Slurm
# may send it another one early.
_LAST_SIGNAL_S = 130


def job_end_s(environment: Mapping[str, str] = os.environ) -> float:
    """Return when the job that this process is part of is ended, in seconds since 1970.

    The scheduler and the environment may tell; the earlier one counts. Infinity where neither does.

    Raises
    ------
    UserError
        When LOCKSTEP_JOB_END is no number.
    """
    text = environment.get(JOB_END, "")
    if text and not text.isdecimal():
        raise UserError(f"{JOB_END}={text}: seconds since 1970, please, as `date +%s` has them.")
    end_s = float(text or math.inf)
    found = own_job(environment)
    with suppress(SchedulerError):
        state = found[0].state(found[1]) if found else None
        if state and state.remaining_s is not None:
            return min(end_s, time.time() + state.remaining_s)
    return end_s


class Job:
    """The job that this process is the script of.

    Parameters
    ----------
    scheduler : Scheduler
        Whose job it is.
    number : str
        The job's number.
    folder : RunFolder
        The run that it trains.
    requeue : str
        When to begin again: "interrupted" by a signal or the loss of a rank, though not because
        its time was up; or "until-done".
    """

    def __init__(self, scheduler: Scheduler, number: str, folder: RunFolder, requeue: str) -> None:
        self._scheduler = scheduler
        self._number = number
        self._folder = folder
        self._requeue = requeue
        self._history = History(folder)
        self._end_s = job_end_s()

    @classmethod
    def of_this_process(cls, folder: RunFolder, requeue: str) -> "Job":
        """Return the job that this process is part of.

        Raises
        ------
        UserError
            When it is part of none.
        """
        found = own_job()
        if found is None:
            raise UserError(
                "--requeue is for the script of a batch job, and this is none: neither "
                "SLURM_JOB_ID nor PBS_JOBID is set. Drop it, or see `lockstep submit`."
            )
        return cls(*found, folder, requeue)

    def begin(self) -> None:
        """Take note of the start.

        Raises
        ------
        SharedFailureError
            When the last restart has led nowhere.
        """
        self._check_progress()
        self._history.started(self._scheduler.name, self._number, self._newest_step)

    def end(self, exit_code: int) -> int:
        """Have the job begin again if that is wanted, and return the exit code.

        Raises
        ------
        SharedFailureError
            When it has led nowhere, and would go on like that.
        """
        with _undisturbed():
            if not self._is_to_go_on(exit_code):
                return exit_code
            self._check_progress()
            if not self._is_still_running():
                click.echo("The job is being ended or requeued by others, so it is left to them.")
                return exit_code
            try:
                self._go_on(exit_code)
            except SchedulerError as error:
                click.echo(f"Error: {error}\nGo on with: {self._remedy}", err=True)
        return exit_code

    def _is_to_go_on(self, exit_code: int) -> bool:
        is_late = time.time() > self._end_s - _LAST_SIGNAL_S
        if not self._folder.config.is_file() and (is_late or exit_code != RESUMABLE):
            # It has not got so far that there is anything to go on with, and the next job wouldn't.
            return False
        if exit_code == RANK_LOST:
            return True
        is_time_up = is_late or self._history.was_time_up
        if not (is_time_up or self._scheduler.tells_cancellation):
            # Perhaps the user has cancelled it.
            return False
        return exit_code == RESUMABLE and (self._requeue == "until-done" or not is_time_up)

    def _is_still_running(self) -> bool:
        """Return whether nobody has cancelled or requeued the job meanwhile."""
        try:
            state = self._scheduler.state(self._number)
        except SchedulerError:
            # Containers may lack the commands that ask; those that act may be there.
            return True
        return state is not None and state.is_running

    def _go_on(self, exit_code: int) -> None:
        """Requeue the job, or submit its script once more.

        After the loss of a rank, rather the latter: shared memory that killed ranks have left
        behind is in the way of a job with the same number, for MPICH names it by that.

        Raises
        ------
        SchedulerError
            With what the scheduler has said to the last attempt.
        """
        script = self._folder.job_script
        requeueing = self._scheduler.requeueing(self._number)
        problem: SchedulerError | None = None
        if requeueing and not (exit_code == RANK_LOST and script.is_file()):
            click.echo(f"Requeueing job {self._number}: it goes on from its newest checkpoint.")
            try:
                call(requeueing)
            except SchedulerError as error:
                problem = error
            else:
                return
        if not script.is_file():
            raise problem or SchedulerError(f"There is no {script} to submit once more.")
        if problem:
            click.echo(f"{problem}\nSo {script} is submitted once more.", err=True)
        submit_script(self._scheduler, self._folder, script, after=self._number)

    @property
    def _newest_step(self) -> int:
        return CheckpointStore(self._folder.checkpoints).newest_step()

    @property
    def _remedy(self) -> str:
        return f"lockstep submit --resume {quoted(self._folder.path)}"

    def _check_progress(self) -> None:
        step = self._newest_step
        is_done = self._folder.summary.exists()
        if not is_done and self._history.stands_still(step, self._number):
            raise SharedFailureError(
                f"The job has made no progress between two restarts: both began after step {step}, "
                "and no later checkpoint was saved. So it is not started again. See why in "
                f"{self._folder.job}; if its time was too short, ask for more --time, or save more "
                f"often (--checkpoint-every-minutes): {self._remedy}"
            )


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore the signals that have told of the end already, until what is to follow is arranged."""
    before = {
        number: signal.signal(number, signal.SIG_IGN) for number in (*STOP_SIGNALS, *SAVE_SIGNALS)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def submit_script(scheduler: Scheduler, folder: RunFolder, script: Path, *, after: str = "") -> str:
    """Submit a run's script, by the user or after another job, and return the job's number.

    Raises
    ------
    SchedulerError
        With the scheduler's own words.
    """
    job = scheduler.job_of(call(scheduler.submission(script, after)))
    History(folder).submitted(scheduler.name, job, by_user=not after)
    if after:
        click.echo(f"Submitted job {job}, which goes on from the newest checkpoint.")
    return job
