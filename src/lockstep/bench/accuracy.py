"""The time that a training takes to reach an accuracy, beside other libraries."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import perf_counter

import click
from threadpoolctl import threadpool_limits

from lockstep.bench.accuracy_measurement import AccuracyMeasurement, Curve
from lockstep.bench.case import Case, steps_only
from lockstep.bench.contestants import LOCKSTEP
from lockstep.bench.environment import environment
from lockstep.bench.peers.peer import Peer, UnavailableError, packages
from lockstep.bench.peers.task import Samples, Task
from lockstep.config import Config, Optimization
from lockstep.data.dataset_file import DatasetFile
from lockstep.errors import UserError
from lockstep.parallel.single import SingleProcess
from lockstep.storage.run_folder import make_folder
from lockstep.train.blueprint import network_of
from lockstep.train.observers import EpochResult, Observer
from lockstep.train.run import resolve
from lockstep.train.trainer import Trainer

# With these, every seed comes to 98 % of MNIST's validation split within ten epochs. A hidden layer
# of 128, or a constant learning rate, gets there by chance at best.
_CASE = Case((256,), 128)
_ADAMW = Optimization(optimizer="adamw", schedule="cosine", learning_rate=0.003)

# Trains with a seed for so many epochs.
Contestant = Callable[[int, int], Curve]


def benchmark_accuracy(
    data: Path, peers: Sequence[Peer], num_seeds: int, num_epochs: int, out: Path, command: str
) -> None:
    """Measure, tell the figures, and write them to a folder.

    Parameters
    ----------
    data : Path
        The data set file, with a validation split.
    peers : sequence of Peer
        To compare with, as far as they are installed.
    num_seeds : int
        How many trainings of each; they take turns.
    num_epochs : int
        Of each training.
    out : Path
        The folder for `accuracy.json`, `accuracy.md` and `accuracy.png`.
    command : str
        What repeats the benchmark.

    Raises
    ------
    UserError
        When the data can't be read, or the folder can't be made.
    """
    with threadpool_limits(1, user_api="blas"), DatasetFile.open(data) as dataset:
        if not dataset.info.num_samples["validation"]:
            raise UserError(
                f"{data} has no validation split to measure the accuracy on: "
                "convert the data again with --validation 0.1."
            )
        make_folder(out)
        facts = environment(SingleProcess(), command, packages(peers))
        measurement = measure(dataset, peers, num_seeds, num_epochs)

    from lockstep.bench.accuracy_report import publish  # noqa: PLC0415 - plots

    publish(measurement, facts, out)


def measure(
    dataset: DatasetFile, peers: Iterable[Peer], num_seeds: int, num_epochs: int
) -> AccuracyMeasurement:
    """Let all contestants train with one seed after the other.

    Parameters
    ----------
    dataset : DatasetFile
        Open, with a validation split.
    peers : iterable of Peer
        To compare with.
    num_seeds : int
        The seeds are 0, 1, ...
    num_epochs : int
        Of each training.
    """
    train, validation = (Samples.read(dataset, split) for split in ("train", "validation"))
    contestants: dict[str, Contestant] = {LOCKSTEP: partial(train_lockstep, dataset)}
    for peer in peers:
        contestants[peer.name] = partial(train_peer, peer, dataset, train, validation)

    absent = {}
    for name, contestant in list(contestants.items()):
        try:
            # Compiles, fills the caches, and doesn't count.
            contestant(0, 1)
        except UnavailableError as error:
            absent[name] = str(error)
            del contestants[name]

    curves: dict[str, list[Curve]] = {name: [] for name in contestants}
    for seed in range(num_seeds):
        for name, contestant in contestants.items():
            curves[name].append(contestant(seed, num_epochs))
        click.echo(f"Trained with seed {seed}: {', '.join(contestants)}")

    network = network_of(_config(0, num_epochs), dataset.info)
    return AccuracyMeasurement(
        data=dataset.info.name,
        network=str(network),
        num_parameters=network.num_parameters,
        global_batch_size=_CASE.global_batch_size,
        num_epochs=num_epochs,
        learning_rate=_ADAMW.learning_rate,
        num_validation=len(validation.y),
        curves=curves,
        absent=absent,
    )


def _config(seed: int, num_epochs: int) -> Config:
    config = steps_only(_CASE, _ADAMW)
    training = replace(config.training, epochs=num_epochs, seed=seed)
    return resolve(replace(config, training=training), world_size=1)


class Watch(Observer):
    """Takes the time and the validation score of every epoch."""

    def __init__(self) -> None:
        self.curve = Curve([], [])
        self._start = perf_counter()

    def epoch_done(self, result: EpochResult) -> None:
        """Take note of it."""
        self.curve.seconds.append(perf_counter() - self._start)
        self.curve.correct.append(result.val_correct or 0)

    def start(self) -> None:
        """Start the clock again."""
        self._start = perf_counter()


def train_lockstep(dataset: DatasetFile, seed: int, num_epochs: int) -> Curve:
    """Train as `lockstep train` would, without a run folder."""
    watch = Watch()
    trainer = Trainer(_config(seed, num_epochs), dataset, SingleProcess(), watch)
    watch.start()
    trainer.train()
    return watch.curve


def train_peer(
    peer: Peer,
    dataset: DatasetFile,
    train: Samples,
    validation: Samples,
    seed: int,
    num_epochs: int,
) -> Curve:
    """Train a peer, and evaluate it after every epoch.

    Raises
    ------
    UnavailableError
        When it can't take part.
    """
    task = Task.of(_config(seed, num_epochs), dataset, train)
    training = peer.start(task)
    curve, start = Curve([], []), perf_counter()
    for _ in range(num_epochs):
        training.train(task.steps_per_epoch)
        correct = training.num_correct(validation)
        curve.seconds.append(perf_counter() - start)
        curve.correct.append(correct)
    return curve
