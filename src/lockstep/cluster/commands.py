"""The commands `lockstep submit` and `lockstep status`.

What they need is imported inside them: see `lockstep.cli`.
"""

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from lockstep.cluster.request import JobRequest, job_request, quoted, site_file
from lockstep.options import ConfiguredCommand, configuration_options, configure
from lockstep.parallel.launch import LAUNCHERS, refuse_ranks
from lockstep.storage.run_folder import RunFolder

_FILE = click.Path(path_type=Path)
_OPTIONS = (
    click.option(
        "--scheduler", type=click.Choice(["slurm", "pbs"]), help="The one that is here if unset."
    ),
    click.option("--nodes", type=int, help="Nodes of the job.  [default: 1]"),
    click.option("--ranks-per-node", type=int, help="MPI ranks on each of them.  [default: 1]"),
    click.option(
        "--time", metavar="[D-]HH:MM:SS", help="Longest time of a job.  [default: 01:00:00]"
    ),
    click.option("--partition", help="Where it waits; for PBS, the queue."),
    click.option("--account", help="Who pays."),
    click.option("--memory-per-node-mb", type=int, help="Megabytes; up to the site if unset."),
    click.option(
        "--launcher",
        type=click.Choice(LAUNCHERS),
        help="What starts the ranks.  [default: srun for Slurm, mpiexec for PBS]",
    ),
    click.option("--module", multiple=True, help="Environment module to load; repeatable."),
    click.option("--setup", multiple=True, metavar="LINE", help="Line of the script; repeatable."),
    click.option("--option", multiple=True, help="Another option of the scheduler; repeatable."),
    click.option("--template", metavar="FILE", help="Template of the script, if not Lockstep's."),
)


def _request_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of `JobRequest`, and that as its `request`."""

    @wraps(command)
    def gathered(*arguments: Any, **options: Any) -> None:  # noqa: ANN401 - click's own
        own = {field.name: options.pop(field.name) for field in fields(JobRequest)}
        command(*arguments, request=job_request(own, site_file()), **options)

    wrapped: Callable[..., None] = gathered
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


@click.command(cls=ConfiguredCommand, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[CONFIG.toml]")
@_request_options
@click.option("--until-done", is_flag=True, help="As many jobs, one after another, as it takes.")
@click.option("--dry-run", is_flag=True, help="Check all and show the script, and leave nothing.")
@click.option(
    "--results", type=_FILE, default="results", show_default=True, help="Where run folders live."
)
@click.option("--run-name", default="", help="Name of the run folder; data set and time if unset.")
@click.option("--resume", type=_FILE, metavar="RUN", help="Go on with the run in this folder.")
@configuration_options
def submit(
    arguments: tuple[str, ...],
    request: JobRequest,
    results: Path,
    run_name: str,
    resume: Path | None,
    *,
    until_done: bool,
    dry_run: bool,
    **values: str | None,
) -> None:
    """Submit a training as a job of Slurm or PBS.

    Checks configuration, data set and memory, writes the job's script to the run folder, shows
    it, submits it, and prints the job's number.

    \b
      lockstep submit launch/presets/digits.toml --nodes 2 --ranks-per-node 16 --time 00:30:00
      lockstep submit my.toml --nodes 4 --ranks-per-node 32 --time 04:00:00 --until-done
      lockstep submit --resume results/my-run --nodes 1 --ranks-per-node 8

    A job that is told to stop before its time is up, or loses a rank, begins again from its newest
    checkpoint; with --until-done also when its time is up. The number of ranks may be another one
    each time: the bits stay the same.

    Your site's usual options may stand in a TOML file, `site.toml` in your configuration folder
    (on Linux ~/.config/lockstep), by their names: partition = "batch", module = ["mpich"].
    """
    refuse_ranks()
    from lockstep.cluster.schedulers import scheduler_named
    from lockstep.cluster.submission import Submission, check_job, check_not_queued
    from lockstep.errors import UserError

    if resume and run_name:
        raise UserError(f"--resume goes on in {resume}, so drop --run-name {run_name}.")
    scheduler = scheduler_named(request.scheduler)
    config, source = configure(arguments, values, resume)
    config, dataset_name = check_job(config, request)
    if resume:
        check_not_queued(RunFolder(resume))
    is_first = not results.exists()
    folder = RunFolder(resume) if resume else RunFolder.claim(results, run_name, dataset_name)
    requeue = "until-done" if until_done else "interrupted"
    submission = Submission(
        request, scheduler, config, folder, is_new=not resume, requeue=requeue, source=source
    )
    try:
        script = submission.script
        if dry_run:
            click.echo(script)
            click.echo("Nothing was submitted or written. To do it, drop --dry-run.")
            return
        click.echo(f"Submitting {folder.job_script}:\n\n{script}")
        job = submission.submit()
    finally:
        if not resume and not folder.config.exists():
            folder.discard()
            if is_first:
                results.rmdir()
    click.echo(f"Submitted job {job}. See: lockstep status {quoted(folder.path)}")


@click.command()
@click.argument("run", type=_FILE)
def status(run: Path) -> None:
    """Tell what a run is doing.

    Its job's state in the queue, epochs and steps done, rate, expected end and last checkpoint.
    """
    refuse_ranks()
    from lockstep.cluster.status import status_text

    click.echo(status_text(RunFolder.open(run)))
