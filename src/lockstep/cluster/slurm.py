"""Slurm, by sbatch, squeue and scontrol."""

import re
from collections.abc import Mapping
from pathlib import Path

from lockstep.cluster.scheduler import JobState, SchedulerError, call, seconds_of

_FIELDS = "%A|%T|%r|%N|%L|%S"
# Slurm has the second one while it sends a signal.
_RUNNING = {"RUNNING", "SIGNALING"}
_WAITING = {
    "COMPLETING",
    "CONFIGURING",
    "PENDING",
    "REQUEUED",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "RESIZING",
    "RESV_DEL_HOLD",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
}


class Slurm:
    """See `lockstep.cluster.scheduler.Scheduler`."""

    name = "slurm"
    submit_program = "sbatch"
    template = "slurm.sh.jinja"
    launcher = "srun"
    tells_cancellation = True

    def own_job(self, environment: Mapping[str, str]) -> str | None:
        """Read SLURM_JOB_ID."""
        return environment.get("SLURM_JOB_ID")

    def submission(self, script: Path, after: str = "") -> list[str]:
        """Return a command of sbatch."""
        dependency = [f"--dependency=afterany:{after}"] if after else []
        return ["sbatch", "--parsable", *dependency, str(script)]

    def requeueing(self, job: str) -> list[str] | None:
        """Return a command of scontrol."""
        return ["scontrol", "requeue", job]

    def job_of(self, told: str) -> str:
        """Read what `sbatch --parsable` prints: the number, and perhaps the cluster's name."""
        found = re.search(r"^(\d+)(;\S*)?\s*$", told, re.MULTILINE)
        if found is None:
            raise SchedulerError(f"sbatch has printed no job number, but:\n{told}")
        return found[1]

    def state(self, job: str) -> JobState | None:
        """Ask squeue, which knows of a job for some minutes after its end."""
        try:
            told = call(
                ["squeue", "--noheader", "--states=all", f"--jobs={job}", f"--format={_FIELDS}"]
            )
        except SchedulerError as error:
            if "Invalid job id" in str(error):
                return None
            raise
        # Of an array, it tells of all tasks.
        own = [line for line in told.splitlines() if line.startswith(f"{job}|")]
        if not own:
            return None
        _, name, reason, nodes, remaining, start = own[0].split("|")
        return JobState(
            name=name,
            is_running=name in _RUNNING,
            is_waiting=name in _WAITING,
            reason="" if reason == "None" else reason,
            nodes=nodes,
            remaining_s=seconds_of(remaining),
            start="" if start == "N/A" else start,
        )
