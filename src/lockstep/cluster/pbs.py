"""PBS (OpenPBS, PBS Professional), by qsub and qstat."""

import re
import time
from collections.abc import Mapping
from pathlib import Path

from lockstep.cluster.scheduler import JobState, SchedulerError, call, seconds_of

# What `qstat -f` has in its letters.
_NAMES = {
    "B": "BEGUN",
    "E": "EXITING",
    "F": "FINISHED",
    "H": "HELD",
    "M": "MOVED",
    "Q": "QUEUED",
    "R": "RUNNING",
    "S": "SUSPENDED",
    "T": "MOVING",
    "U": "SUSPENDED",
    "W": "WAITING",
    "X": "FINISHED",
}
_WAITING = {"BEGUN", "EXITING", "HELD", "QUEUED", "MOVING", "SUSPENDED", "WAITING"}


class PBS:
    """See `lockstep.cluster.scheduler.Scheduler`."""

    name = "pbs"
    submit_program = "qsub"
    template = "pbs.sh.jinja"
    launcher = "mpiexec"
    # Its jobs are running until they have ended.
    tells_cancellation = False

    def own_job(self, environment: Mapping[str, str]) -> str | None:
        """Read PBS_JOBID."""
        return environment.get("PBS_JOBID")

    def submission(self, script: Path, after: str = "") -> list[str]:
        """Return a command of qsub."""
        dependency = ["-W", f"depend=afterany:{after}"] if after else []
        return ["qsub", *dependency, str(script)]

    def requeueing(self, job: str) -> list[str] | None:
        """Return nothing: qrerun is for operators."""
        del job
        return None

    def job_of(self, told: str) -> str:
        """Read what qsub prints: a number and the server's name."""
        found = re.search(r"^(\d+\S*)\s*$", told, re.MULTILINE)
        if found is None:
            raise SchedulerError(f"qsub has printed no job number, but:\n{told}")
        return found[1]

    def state(self, job: str) -> JobState | None:
        """Ask qstat, which may forget a job at once when it has ended."""
        try:
            told = call(["qstat", "-f", job])
        except SchedulerError as error:
            if re.search(r"Unknown Job|has finished", str(error)):
                return None
            raise
        facts = _attributes(told)
        name = _NAMES.get(facts.get("job_state", ""), "UNKNOWN")
        return JobState(
            name=name,
            is_running=name == "RUNNING",
            is_waiting=name in _WAITING,
            reason=facts.get("comment", "") if name in _WAITING else "",
            nodes=facts.get("exec_host", ""),
            remaining_s=_remaining_s(facts),
            start=facts.get("estimated.start_time", ""),
        )


def _attributes(told: str) -> dict[str, str]:
    """Read `name = value`, one to a line, of which long ones go on after a tab."""
    facts = {}
    for line in told.replace("\n\t", "").splitlines():
        name, equals, value = line.partition(" = ")
        if equals:
            facts[name.strip()] = value.strip()
    return facts


def _remaining_s(facts: Mapping[str, str]) -> float | None:
    """Return what is left of the time asked for, from when the job has begun."""
    limit_s = seconds_of(facts.get("Resource_List.walltime", ""))
    if limit_s is None:
        return None
    try:
        start_s = time.mktime(time.strptime(facts["stime"], "%a %b %d %H:%M:%S %Y"))
    except (KeyError, ValueError):
        # It has only just begun, for all that is known.
        return limit_s
    return limit_s - (time.time() - start_s)
