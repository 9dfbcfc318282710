"""The batch schedulers there are."""

import os
import shutil
from collections.abc import Mapping

from lockstep.cluster.pbs import PBS
from lockstep.cluster.scheduler import Scheduler
from lockstep.cluster.slurm import Slurm
from lockstep.errors import UserError

SCHEDULERS: dict[str, Scheduler] = {"slurm": Slurm(), "pbs": PBS()}


def scheduler_named(name: str) -> Scheduler:
    """Return a scheduler; without a name, the one whose commands are here.

    Raises
    ------
    UserError
        When there is none.
    """
    if name:
        return SCHEDULERS[name]
    for scheduler in SCHEDULERS.values():
        if shutil.which(scheduler.submit_program):
            return scheduler
    programs = " nor ".join(scheduler.submit_program for scheduler in SCHEDULERS.values())
    raise UserError(
        f"There is neither {programs} on the PATH, so there is no scheduler to submit to. Go to a "
        "machine that has one, or see the job's script with --scheduler slurm --dry-run."
    )


def own_job(environment: Mapping[str, str] = os.environ) -> tuple[Scheduler, str] | None:
    """Return the scheduler of the job that this process is part of, and the job's number."""
    for scheduler in SCHEDULERS.values():
        job = scheduler.own_job(environment)
        if job:
            return scheduler, job
    return None
