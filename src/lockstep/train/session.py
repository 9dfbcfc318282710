"""A session: the training in a run folder from a start to a stop, on ranks that may be lost."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from threadpoolctl import threadpool_limits

from lockstep.config import Config
from lockstep.data.dataset_file import DatasetFile
from lockstep.parallel.binding import gather_bindings, own_cores, ranges
from lockstep.parallel.communicator import Communicator, Doing
from lockstep.parallel.crowding import Crowding, find_crowding
from lockstep.parallel.launch import terminal_width
from lockstep.parallel.verdict import on_root, together
from lockstep.storage.checkpoint import Checkpoint
from lockstep.storage.run_folder import RunFolder, read_json
from lockstep.train import fingerprint
from lockstep.train.blueprint import network_of
from lockstep.train.model import checkpoint_snapshot
from lockstep.train.nonfinite import DivergedError
from lockstep.train.observers import Console, Observer, Observers
from lockstep.train.record import RunRecord, checkpoint_of
from lockstep.train.requests import Requests
from lockstep.train.resume import share
from lockstep.train.trainer import Trainer

# More can't be read.
_MOST_SHOWN_HOSTS = 8


@dataclass(frozen=True)
class Run:
    """A run as a training has left it.

    Parameters
    ----------
    folder : RunFolder
        Its folder.
    is_done : bool
        Whether it is finished; otherwise it was asked to stop and can be resumed.
    num_steps : int
        Steps done.
    communicator : Communicator
        The ranks that are left.
    """

    folder: RunFolder
    is_done: bool
    num_steps: int
    communicator: Communicator


class Session:
    """Trains in a run folder, and goes on without a rank that dies, where MPI can do that.

    Every rank has a replica of the parameters and, where ranks can be lost, the whole optimizer
    state. One may be a step ahead of another, or may have finished an epoch that the other has
    not: the state of either is that of a run in which nothing happened.
    So the survivors take one of them, divide the virtual ranks anew, and go on as if they resumed.

    Parameters
    ----------
    folder : RunFolder
        Of the run.
    config : Config
        Resolved.
    requests : Requests
        What is asked of the training from outside.
    quiet : bool
        Whether nothing is printed, apart from warnings.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        requests: Requests,
        *,
        quiet: bool,
    ) -> None:
        self._folder = folder
        self._config = config
        self._requests = requests
        self._quiet = quiet
        self._observer = Observer()
        self._trainer: Trainer | None = None
        self._lock = ExitStack()

    @contextmanager
    def hold(self, communicator: Communicator) -> Iterator[None]:
        """Keep others out of the run folder; collective."""
        with self._lock:
            self._take_hold(communicator)
            yield

    def _take_hold(self, communicator: Communicator) -> None:
        on_root(communicator, lambda: self._lock.enter_context(self._folder.lock()))
        self._is_root = communicator.rank == 0

    def train(
        self, communicator: Communicator, dataset: DatasetFile, checkpoint: Checkpoint | None
    ) -> Run:
        """Train from the beginning or from a checkpoint; collective.

        Parameters
        ----------
        communicator : Communicator
            The ranks.
        dataset : DatasetFile
            Open.
        checkpoint : Checkpoint or None
            The same on all of them.
        """
        self._dataset = dataset
        spent_s = checkpoint.facts["wall_time_s"] if checkpoint else 0.0
        self._start_s = time.perf_counter() - spent_s
        self._first_step = checkpoint.facts["step"] if checkpoint else 0
        has_lost_rank = False
        with blas_threads(self._config):
            while True:
                command = f"lockstep train --resume {self._folder.path}"
                # What doesn't test is a part of something larger, which is to be gone on with.
                remedy = f"Go on with: {command if self._requests.tests else 'the same command'}"
                timeout_s = self._config.training.stall_timeout_s
                communicator.watch_over(self._doing, timeout_s, remedy)
                try:
                    if has_lost_rank:
                        checkpoint = self._recover(communicator) or checkpoint
                    run = self._train(communicator, checkpoint)
                except RuntimeError as error:
                    survivors = communicator.survivors(error)
                    if survivors is None:
                        raise
                    communicator, has_lost_rank = survivors, True
                else:
                    communicator.watch_over(None)
                    return run

    def _doing(self) -> Doing:
        return self._trainer.doing() if self._trainer else Doing(self._first_step, "start-up")

    def _train(self, communicator: Communicator, checkpoint: Checkpoint | None) -> Run:
        """Train until the end, a stop, or the loss of a rank; collective."""
        self._observe(communicator, checkpoint)
        trainer = together(communicator, lambda: self._make_trainer(communicator))
        if checkpoint is not None:
            trainer.restore(checkpoint_snapshot(checkpoint, trainer.network))
        self._trainer = trainer
        # A diverging training is told of in one message, not by NumPy's warnings.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            try:
                is_done = trainer.train()
            except DivergedError:
                # On all ranks alike, and they may have other trainings to do.
                trainer.close()
                raise
        communicator.settle()
        return Run(self._folder, is_done, trainer.progress.step, communicator)

    def _make_trainer(self, communicator: Communicator) -> Trainer:
        return Trainer(self._config, self._dataset, communicator, self._observer, self._requests)

    def _observe(self, communicator: Communicator, checkpoint: Checkpoint | None) -> None:
        """Give the root what watches and records the training; collective."""
        hosts = fingerprint.hosts(communicator)
        kernels = fingerprint.kernels_by_rank(communicator)
        bindings = gather_bindings(communicator)
        if communicator.rank != 0:
            return
        environment = _environment(communicator)
        environment |= {"hosts": hosts, "kernels": fingerprint.counted(kernels)}
        environment["binding"] = {f"rank {r}": str(own) for r, own in enumerate(bindings)}
        record = RunRecord(self._folder, self._config, self._dataset, environment, checkpoint)
        self._observer = Observers([record] if self._quiet else [Console(terminal_width()), record])
        if not self._quiet:
            self._announce(communicator.world_size, checkpoint)
            threads = self._config.training.threads_per_rank
            _warn_of_crowding(find_crowding(bindings, threads, communicator.library))
        _warn_of_mixed_kernels(kernels, [own.host for own in bindings])
        _warn_of_other_kernels(environment, read_json(self._folder.run))

    def _recover(self, survivors: Communicator) -> Checkpoint | None:
        """Return the state to go on from, the same on all ranks that are left; collective.

        None when all were still on their way to where they began. The root's own state is taken
        where there is one, for it has told of that; otherwise that of the rank which is the
        furthest.
        """
        own = [-1, -1, 0]
        if self._trainer is not None:
            progress = self._trainer.progress
            own = [progress.step, progress.epoch, self._is_root]
        places = survivors.gather_rows(np.array([own])).tolist()
        source = 0 if places[0][2] else places.index(max(places))
        checkpoint = None
        if self._trainer is not None and survivors.rank == source:
            wall_time_s = time.perf_counter() - self._start_s
            snapshot = self._trainer.snapshot()
            checkpoint = checkpoint_of(self._config, self._dataset, snapshot, wall_time_s)
        checkpoint = share(survivors, checkpoint, source)
        self._observer.training_stopped()
        if not survivors.sum_counts(np.array([self._is_root], np.int64))[0]:
            # One that has died may not have let go of it yet.
            on_root(survivors, self._folder.wait_until_free)
            self._take_hold(survivors)
        self._trainer, self._observer = None, Observer()
        return checkpoint

    def _announce(self, world_size: int, checkpoint: Checkpoint | None) -> None:
        config, info = self._config, self._dataset.info
        network = network_of(config, info)
        num_rows = info.num_samples["train"]
        click.echo(
            f"Training {network} ({network.num_parameters:,} parameters) on {num_rows:,} rows of "
            f"{config.data.data}: ranks {world_size}, virtual ranks "
            f"{config.training.virtual_ranks}, in {self._folder.path}"
        )
        if checkpoint is not None:
            facts = checkpoint.facts
            click.echo(f"Going on after step {facts['step']} ({facts['epoch']} epochs done)")
            _tell_of_longer_schedule(config, facts["config"])


def blas_threads(config: Config) -> threadpool_limits:
    """Set the rank's BLAS threads for a while: at most one for each core that it may run on."""
    threads = min(config.training.threads_per_rank, len(own_cores()))
    return threadpool_limits(threads, user_api="blas")


def _warn_of_crowding(crowding: Crowding | None) -> None:
    if crowding is not None:
        what = "Warning" if crowding.is_mendable else "Note"
        click.echo(f"{what}: {crowding.text} {crowding.remedy}", err=True)


def _warn_of_mixed_kernels(kernels: Sequence[str], hosts: Sequence[str]) -> None:
    """Tell of ranks that don't all compute with the same.

    Parameters
    ----------
    kernels, hosts : sequence of str
        By rank.
    """
    ranks_by_kernel: dict[str, list[int]] = {}
    for rank, kernel in enumerate(kernels):
        ranks_by_kernel.setdefault(kernel, []).append(rank)
    if len(ranks_by_kernel) > 1:
        told = "; ".join(
            f"rank{'s' * (len(ranks) > 1)} {ranges(ranks)} ({_hosts_text(hosts, ranks)}) with "
            f"{kernel}"
            for kernel, ranks in ranks_by_kernel.items()
        )
        click.echo(
            f"Warning: the ranks compute with different NumPys, BLAS kernels or threads: {told}. "
            "So the bits depend on where a virtual rank runs: another placement or number of "
            "ranks may give others.",
            err=True,
        )


def _hosts_text(hosts: Sequence[str], ranks: Sequence[int]) -> str:
    """Name the hosts of some ranks, but no more than can be read."""
    names = list(dict.fromkeys(hosts[rank] for rank in ranks))
    shown = ", ".join(names[:_MOST_SHOWN_HOSTS])
    more = len(names) - _MOST_SHOWN_HOSTS
    return f"{shown} and {more} more" if more > 0 else shown


def _warn_of_other_kernels(now: Mapping[str, Any], run: Mapping[str, Any]) -> None:
    """Tell that a session computes with something else than the run's first one.

    Parameters
    ----------
    now : mapping
        The session's environment.
    run : mapping
        What `run.json` holds; an older Lockstep may have written less to it.
    """
    before, after = _computing(run), _computing(now)
    if before and after and before != after:
        click.echo(
            f"Warning: the run began with other BLAS kernels, threads or another NumPy: {before}, "
            f"and goes on with {after}. A run that was never stopped may give other bits.",
            err=True,
        )


def _computing(session: Mapping[str, Any]) -> str:
    """Return what a session's ranks compute with, as far as it has told."""
    kernels, numpy = session.get("kernels"), session.get("versions", {}).get("numpy")
    return f"{'; '.join(sorted(kernels))} (NumPy {numpy})" if kernels and numpy else ""


def _tell_of_longer_schedule(config: Config, before: dict[str, Any]) -> None:
    epochs, schedule = config.training.epochs, config.optimization.schedule
    if epochs > before["training"]["epochs"] and schedule in {"cosine", "one_cycle"}:
        click.echo(
            f"From here on, the learning rate takes its course over {epochs} epochs instead of "
            f"{before['training']['epochs']}."
        )


def _environment(communicator: Communicator) -> dict[str, Any]:
    return {
        "world_size": communicator.world_size,
        "versions": fingerprint.versions(communicator),
        "blas": fingerprint.blas(),
        "machine": fingerprint.machine(),
    }
