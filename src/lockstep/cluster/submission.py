"""Submitting a training as a job: what is checked before, and what is written."""

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import click

from lockstep.cluster.history import History
from lockstep.cluster.job import submit_script
from lockstep.cluster.request import JobRequest, quoted
from lockstep.cluster.scheduler import Scheduler, SchedulerError
from lockstep.cluster.schedulers import SCHEDULERS
from lockstep.cluster.script import job_script
from lockstep.config import Config, to_toml
from lockstep.errors import UserError
from lockstep.options import Source, option_words
from lockstep.storage.run_folder import RunFolder, write_text
from lockstep.train.room import check_room_on_nodes
from lockstep.train.run import open_dataset, resolve


@dataclass(frozen=True)
class Submission:
    """A job to be.

    Parameters
    ----------
    request : JobRequest
        What it asks for.
    scheduler : Scheduler
        Whom.
    config : Config
        What it trains.
    folder : RunFolder
        The run, whose folder is there.
    is_new : bool
        Whether the run has yet to begin.
    requeue : str
        See `Job`.
    source : Source
        What of the configuration the command line names.
    """

    request: JobRequest
    scheduler: Scheduler
    config: Config
    folder: RunFolder
    is_new: bool
    requeue: str
    source: Source

    @property
    def script(self) -> str:
        """The job's script."""
        options = {} if self.is_new else self.source.options
        return job_script(
            self.request,
            self.scheduler,
            {
                "name": re.sub(r"[^\w-]", "_", self.folder.path.name, flags=re.ASCII),
                "script": self.folder.job_script,
                "job_folder": self.folder.job,
                "programs": Path(sys.executable).parent,
                "threads_per_rank": self.config.training.threads_per_rank or 1,
                "requeue": self.requeue,
            },
            ["lockstep", "train", f"--resume={self.folder.path}", *option_words(options)],
        )

    def submit(self) -> str:
        """Write configuration and script to the run folder, submit it, and return the job's number.

        Raises
        ------
        SchedulerError
            With the scheduler's own words. A new run is none any more then.
        """
        script = self.script
        self.folder.job.mkdir(exist_ok=True)
        write_text(self.folder.job_script, script)
        self.folder.job_script.chmod(0o755)
        if self.is_new:
            write_text(self.folder.config, to_toml(self.config))
        try:
            return submit_script(self.scheduler, self.folder, self.folder.job_script)
        except SchedulerError:
            if self.is_new:
                self.folder.config.unlink()
            raise


def check_job(config: Config, request: JobRequest) -> tuple[Config, str]:
    """Check what can be checked before a job waits in the queue.

    Parameters
    ----------
    config : Config
        As the user gave it.
    request : JobRequest
        What the job asks for.

    Returns
    -------
    Config
        With the number of its virtual ranks.
    str
        The data set's name.

    Raises
    ------
    UserError
        When the configuration won't do, there are more ranks than virtual ranks, the data set
        can't be opened or trained on, or the ranks of a node take more memory than was asked for.
    """
    if request.scheduler == "pbs" and request.launcher == "srun":
        raise UserError("--launcher srun is for jobs of Slurm; with PBS, take mpiexec.")
    resolved = resolve(config, request.num_ranks)
    with open_dataset(resolved) as dataset:
        dataset.check_training_classes()
        memory_bytes = request.memory_per_node_mb * 10**6 or None
        footprint_bytes = check_room_on_nodes(
            resolved, dataset.info, request.nodes, request.ranks_per_node, memory_bytes
        )
        name = dataset.info.name
    ranks = f"{request.num_ranks} rank{'s' * (request.num_ranks > 1)}"
    nodes = f"{request.nodes} node{'s' * (request.nodes > 1)}"
    click.echo(
        f"{ranks} on {nodes}, virtual ranks {resolved.training.virtual_ranks}; each node takes "
        f"about {footprint_bytes / 1e6:,.0f} MB of memory."
    )
    virtual_ranks = resolved.training.virtual_ranks
    return replace(config, training=replace(config.training, virtual_ranks=virtual_ranks)), name


def check_not_queued(folder: RunFolder) -> None:
    """See that no job of the run is under way.

    Raises
    ------
    UserError
        Naming it.
    """
    last = History(folder).job()
    if last is None:
        return
    try:
        state = SCHEDULERS[last["scheduler"]].state(last["job"])
    except SchedulerError as error:
        click.echo(f"Warning: {error}", err=True)
        return
    if state and (state.is_running or state.is_waiting):
        raise UserError(
            f"Job {last['job']} of {folder.path} is {state.name} already, and two jobs never train "
            f"one run. Wait for it or cancel it; lockstep status {quoted(folder.path)} tells more."
        )
