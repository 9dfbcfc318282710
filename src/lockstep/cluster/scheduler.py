"""What the rest of Lockstep knows of a batch scheduler."""

import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from lockstep.errors import UserError

# A scheduler that is busy may take its time.
_ANSWER_S = 60


class SchedulerError(UserError):
    """One of the scheduler's commands has failed, or there is none."""


@dataclass(frozen=True)
class JobState:
    """What a scheduler tells of a job.

    Parameters
    ----------
    name : str
        In the scheduler's own words.
    is_running, is_waiting : bool
        Whether it has its nodes, or is still to get them, or to give them back.
    reason : str
        Why it waits.
    nodes : str
        Where it runs.
    remaining_s : float or None
        Seconds until its time is up.
    start : str
        When it is expected to begin, as the scheduler spells it.
    """

    name: str
    is_running: bool = False
    is_waiting: bool = False
    reason: str = ""
    nodes: str = ""
    remaining_s: float | None = None
    start: str = ""


class Scheduler(Protocol):
    """A batch scheduler, known by its commands."""

    @property
    def name(self) -> str:
        """Of the scheduler, as users call it."""

    @property
    def submit_program(self) -> str:
        """The program that submits a job."""

    @property
    def template(self) -> str:
        """The name of the template of its job scripts."""

    @property
    def launcher(self) -> str:
        """What usually starts the ranks of a job."""

    @property
    def tells_cancellation(self) -> bool:
        """Whether a job that its user has cancelled is not running any more when it is told so."""

    def own_job(self, environment: Mapping[str, str]) -> str | None:
        """Return the job that a process with this environment is part of."""

    def submission(self, script: Path, after: str = "") -> list[str]:
        """Return the command that submits a script, to begin when the job `after` has ended."""

    def requeueing(self, job: str) -> list[str] | None:
        """Return the command that has a running job begin again; None if there is none."""

    def job_of(self, told: str) -> str:
        """Return the job's number from what the submission has printed."""

    def state(self, job: str) -> JobState | None:
        """Return what becomes of a job; None when it is not known any more.

        Raises
        ------
        SchedulerError
            When the scheduler can't be asked.
        """


def call(command: Sequence[str]) -> str:
    """Run one of the scheduler's commands and return what it prints.

    Raises
    ------
    SchedulerError
        When it fails, with its own words.
    """
    text = shlex.join(command)
    if shutil.which(command[0]) is None:
        raise SchedulerError(f"There is no {command[0]} on the PATH of this machine.")
    try:
        done = subprocess.run(  # noqa: S603 - the scheduler's own program
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_ANSWER_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise SchedulerError(f"{text} gives no answer within {_ANSWER_S} s.") from error
    if done.returncode != 0:
        told = "\n".join(filter(None, (done.stderr.strip(), done.stdout.strip())))
        raise SchedulerError(f"{text} has failed with exit code {done.returncode}:\n{told}")
    return done.stdout


def seconds_of(text: str) -> float | None:
    """Return the seconds of a time as schedulers write it.

    That is [days-]hours:minutes:seconds, minutes:seconds, or days-hours[:minutes]. None when it
    is something else, such as UNLIMITED.
    """
    days, dash, rest = text.strip().rpartition("-")
    parts = rest.split(":")
    if not (
        all(part.isdecimal() for part in parts)
        and len(parts) <= 3
        and (not dash or days.isdecimal())
    ):
        return None
    if dash:
        parts += ["0"] * (3 - len(parts))
    elif len(parts) == 1:
        return None
    seconds = 0
    for part in parts:
        seconds = 60 * seconds + int(part)
    return float(seconds + 86400 * int(days or 0))
