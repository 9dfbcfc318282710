"""Starting the ranks of a training from here, and looking after them until it is done."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from itertools import count
from typing import Any

import click

from lockstep.cluster.job import REQUEUE_WHEN, Job
from lockstep.config import Config
from lockstep.errors import SharedError
from lockstep.parallel.communicator import Communicator
from lockstep.parallel.launch import LAUNCHERS, Launch
from lockstep.parallel.supervisor import supervise
from lockstep.storage.run_folder import RunFolder


@dataclass(frozen=True)
class StartOptions:
    """How the ranks of a training are to be started, as the command line has it."""

    num_ranks: int | None
    hosts: str
    launcher: str
    launcher_options: str
    restarts: int
    requeue: str

    def check(self, communicator: Communicator) -> None:
        """See that they make sense here.

        Raises
        ------
        SharedError
            When the ranks are there already, or their number is missing.
        """
        if communicator.world_size > 1 and self.num_ranks:
            raise SharedError(
                "This process is one of several ranks already, so -n makes no sense here. Drop "
                "-n, or don't start lockstep by mpiexec or srun."
            )
        unused = StartOptions(None, "", LAUNCHERS[0], "", 0, REQUEUE_WHEN[0])
        if self.num_ranks is None and self != unused:
            raise SharedError(
                "--hosts, --launcher, --launcher-options, --restarts and --requeue need -n, the "
                "number of ranks."
            )

    @property
    def launch(self) -> Launch:
        """See `Launch.of_options`."""
        return Launch.of_options(
            self.num_ranks or 1, self.hosts, self.launcher_options, self.launcher
        )

    @property
    def needs_supervisor(self) -> bool:
        """Whether another process than this one trains."""
        return (self.num_ranks or 1) > 1 or self.restarts > 0 or self.requeue != REQUEUE_WHEN[0]


_OPTIONS = (
    click.option("-n", "--num-ranks", type=click.IntRange(1), help="Start so many MPI ranks."),
    click.option("--hosts", default="", metavar="HOST,...", help="With -n: where; here if unset."),
    click.option(
        "--launcher",
        type=click.Choice(LAUNCHERS),
        default=LAUNCHERS[0],
        show_default=True,
        help="With -n: by whom. srun is for jobs of Slurm.",
    ),
    click.option(
        "--launcher-options", default="", metavar="WORDS", help="With -n: more for the launcher."
    ),
    click.option(
        "--restarts",
        type=click.IntRange(0),
        default=0,
        metavar="K",
        help="With -n: when a rank was lost, go on from the newest checkpoint, up to K times.",
    ),
    click.option(
        "--requeue",
        type=click.Choice(REQUEUE_WHEN),
        default=REQUEUE_WHEN[0],
        show_default=True,
        help="With -n, in the script of a batch job: when the job is to begin again. Interrupted "
        "it is by a signal or the loss of a rank, but not by the end of its time.",
    ),
)


def start_options(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options, and their values as its argument `start`."""

    @wraps(command)
    def gathered(*arguments: Any, **options: Any) -> int:  # noqa: ANN401 - click's own
        own = {field.name: options.pop(field.name) for field in fields(StartOptions)}
        return command(*arguments, start=StartOptions(**own), **options)

    wrapped: Callable[..., int] = gathered
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def check_start(config: Config, launch: Launch) -> str:
    """Check before the start what can be checked in one process; return the data set's name.

    Raises
    ------
    UserError
        When the configuration, the data set or the memory won't do.
    """
    from lockstep.train.room import check_room_here
    from lockstep.train.run import open_dataset, resolve

    with open_dataset(resolved := resolve(config, launch.num_ranks)) as dataset:
        if launch.is_here:
            check_room_here(resolved, dataset.info, launch.num_ranks)
        return dataset.info.name


def train_on_ranks(
    start: StartOptions, folder: RunFolder, words: list[str], *, is_new: bool
) -> int:
    """Train on ranks, go on when one was lost, and have the job begin again.

    Parameters
    ----------
    start : StartOptions
        How.
    folder : RunFolder
        Of the run. It is there, so that it is known what to resume.
    words : list of str
        The command line of `lockstep` for each rank.
    is_new : bool
        Whether the run has yet to begin.

    Returns
    -------
    int
        The exit code.
    """
    try:
        if start.requeue == REQUEUE_WHEN[0]:
            return _supervise(start, folder, words, is_new=is_new)
        job = Job.of_this_process(folder, start.requeue)
        job.begin()
        return job.end(_supervise(start, folder, words, is_new=is_new))
    finally:
        if is_new and not folder.config.is_file():
            folder.discard()


def _supervise(start: StartOptions, folder: RunFolder, words: list[str], *, is_new: bool) -> int:
    starts, finished_before = count(), folder.finished_ns

    def next_arguments() -> list[str]:
        if next(starts):
            folder.wait_until_free()
            if folder.config.is_file() and is_new:
                return ["train", f"--resume={folder.path}"]
        if is_new:
            folder.reserve()
        return words

    def is_done() -> bool:
        return folder.finished_ns not in {None, finished_before}

    remedy = f"Go on with: lockstep train --resume {folder.path}"
    return supervise(start.launch, next_arguments, is_done, start.restarts, remedy)
