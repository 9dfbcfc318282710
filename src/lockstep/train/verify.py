"""The promise, checked where it is to hold: the same bits on several numbers of ranks."""

import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import click

from lockstep.config import Config
from lockstep.errors import SharedError, UserError
from lockstep.parallel.communicator import Communicator
from lockstep.parallel.verdict import on_first_ranks, on_root, together
from lockstep.storage.checkpoint import CheckpointStore
from lockstep.storage.run_folder import RunFolder, make_folder
from lockstep.train.requests import Requests
from lockstep.train.run import open_dataset, resolve, resume_training, run_training
from lockstep.train.session import Run


@dataclass(frozen=True)
class Trial:
    """A short training on the way to the same bits.

    Parameters
    ----------
    num_ranks : tuple of int
        Of each session: one, or two with a stop and a resume in between.
    folder : Path
        The run.
    digest : str
        Of parameters and optimizer state at the end.
    """

    num_ranks: tuple[int, ...]
    folder: Path
    digest: str


def verify(
    config: Config,
    communicator: Communicator,
    rank_counts: Sequence[int],
    num_steps: int,
    results: Path,
) -> list[Trial]:
    """Train for a few steps at each number of ranks, stopped and resumed on the next; collective.

    Parameters
    ----------
    config : Config
        As the user gave it. Without `virtual_ranks`, the largest number of ranks.
    communicator : Communicator
        At least as many ranks as the largest number of them.
    rank_counts : sequence of int
        How many ranks to train on.
    num_steps : int
        Of each training; half of them come before the stop.
    results : Path
        Where the runs are kept for the time being; all ranks must see it.

    Returns
    -------
    list of Trial
        The first is never stopped; the others go from each number of ranks to the next. On the
        root only.

    Raises
    ------
    SharedError
        When there are too few ranks, or the configuration won't do.
    """
    largest = max(rank_counts)
    if largest > communicator.world_size:
        raise SharedError(
            f"--ranks asks for {largest}, but there are {communicator.world_size} ranks here."
        )
    # What is wrong with the configuration is found before anything is made.
    together(communicator, lambda: _check_length(resolve(config, largest), num_steps))
    training = config.training
    config = replace(
        config,
        training=replace(
            training,
            virtual_ranks=training.virtual_ranks or largest,
            checkpoint_every_minutes=0,
            patience=0,
        ),
    )
    first = rank_counts[0]
    ways = [(first,), *pairwise([*rank_counts, first])]
    folder = _make_folder(communicator, results)
    trials = []
    for way in ways:
        name = "-then-".join(map(str, way))
        run = _train(config, communicator, way, num_steps, folder, name)
        if communicator.rank == 0 and run is not None:
            trials.append(Trial(way, run.folder.path, _digest(run.folder)))
            click.echo(_line(trials[-1], trials[0]))
    if communicator.rank == 0 and len({trial.digest for trial in trials}) == 1:
        shutil.rmtree(folder)
    return trials


def _check_length(config: Config, num_steps: int) -> None:
    """See that the trials are stopped before they are done."""
    with open_dataset(config) as dataset:
        num_rows = dataset.info.num_samples["train"]
    available = config.training.epochs * -(-num_rows // config.training.global_batch_size)
    if num_steps >= available:
        raise UserError(
            f"--steps {num_steps}: the whole training has {available} steps, and the trials must "
            "end before it does. Take fewer steps or more --epochs."
        )


def _train(
    config: Config,
    communicator: Communicator,
    way: tuple[int, ...],
    num_steps: int,
    results: Path,
    name: str,
) -> Run | None:
    """Train on the first number of ranks, then go on with the others; collective."""
    run = None
    for session, num_ranks in enumerate(way):
        requests = Requests(stop_after=num_steps * (session + 1) // len(way))

        def train(
            group: Communicator, session: int = session, requests: Requests = requests
        ) -> Run:
            if session == 0:
                return run_training(config, group, results, name, requests, quiet=True)
            return resume_training(results / name, {}, group, requests, quiet=True)

        run = on_first_ranks(communicator, num_ranks, train)
    return run


def _make_folder(communicator: Communicator, results: Path) -> Path:
    """Make a folder for the runs on the root, and tell the others its name; collective."""

    def make() -> str:
        make_folder(results)
        try:
            return tempfile.mkdtemp(prefix="verify-", dir=results)
        except OSError as error:
            raise UserError(f"Can't make a folder in {results}: {error.strerror}.") from error

    own = on_root(communicator, make)
    return Path(communicator.gather_texts(own or "")[0])


def _digest(folder: RunFolder) -> str:
    """Return the digest of a run's parameters and optimizer state."""
    arrays = CheckpointStore(folder.checkpoints).load("latest").arrays
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _line(trial: Trial, reference: Trial) -> str:
    way = ", stopped and resumed on ".join(map(str, trial.num_ranks))
    verdict = "" if trial is reference else "same" if trial.digest == reference.digest else "OTHER"
    return f"{'ranks ' + way:36} {trial.digest[:16]}  {verdict}".rstrip()
