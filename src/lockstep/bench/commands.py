"""The commands `lockstep bench ...`.

What they need is imported inside them: see `lockstep.cli`.
"""

import shlex
from pathlib import Path

import click

from lockstep.bench.case import with_steps
from lockstep.parallel.communicator import Communicator
from lockstep.parallel.connect import connect
from lockstep.parallel.launch import Launch, rank_counts_of, refuse_ranks, start_ranks
from lockstep.parallel.verdict import together

_FILE = click.Path(path_type=Path)
_out = click.option(
    "--out", type=_FILE, default="results/bench", show_default=True, help="Folder for the figures."
)
_tiny = click.option(
    "--tiny", is_flag=True, hidden=True, help="Tiny networks, to see whether all works."
)
_peers = click.option("--peers", metavar="NAME,...", help="Whom to compare with; all if unset.")


@click.group()
def bench() -> None:
    """Measure what parts of a training cost."""


@bench.command()
@click.option("--ranks", default="1,2,4", show_default=True, help="Numbers of ranks to measure on.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Repetitions.")
@click.option("--steps", type=click.IntRange(1), help="Of a round; by network if unset.")
@_out
@_tiny
def reduction(ranks: str, rounds: int, steps: int | None, out: Path, *, tiny: bool) -> None:
    """Compare step times of the ordered reduction, of MPI's own, and of none.

    Starts as many MPI ranks as it needs; under an MPI launcher, it takes those that are there.
    Writes reduction.md, reduction.json and reduction.png to the folder OUT.
    """
    words = _words("reduction", ranks=ranks, rounds=rounds, steps=steps, out=out, tiny=tiny)
    communicator, rank_counts = _connect_or_start(ranks, words)
    from lockstep.bench.reduction import CASES, TINY_CASES, benchmark_reduction

    cases = with_steps(TINY_CASES if tiny else CASES, steps)
    benchmark_reduction(communicator, rank_counts, rounds, cases, out, _command(words))


@bench.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Repetitions.")
@click.option("--steps", type=click.IntRange(1), help="Of a round; as many as take 0.4 s if unset.")
@_peers
@_out
@_tiny
def step(rounds: int, steps: int | None, peers: str | None, out: Path, *, tiny: bool) -> None:
    """Compare the time of a training step with other libraries.

    One process with one thread trains several networks with Lockstep, with PyTorch (eager and
    compiled), scikit-learn's MLPClassifier, JAX and a plain NumPy loop over the samples, as far as
    they are installed: `pip install 'lockstep-sgd[peers]'`. Writes step.md, step.json and step.png
    to the folder OUT.
    """
    refuse_ranks()
    from lockstep.bench.peers.peer import peers_named
    from lockstep.bench.step_comparison import CASES, TINY_CASES, benchmark_step

    words = _words("step", rounds=rounds, steps=steps, peers=peers, out=out, tiny=tiny)
    cases = with_steps(TINY_CASES if tiny else CASES, steps)
    benchmark_step(peers_named(peers), rounds, cases, out, _command(words))


@bench.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Repetitions.")
@click.option("--steps", type=click.IntRange(1), help="Of a round; as many as take 0.4 s if unset.")
@_out
@_tiny
def augmentation(rounds: int, steps: int | None, out: Path, *, tiny: bool) -> None:
    """Compare step times with each kind of augmentation, and without any.

    One process with one thread trains two networks on made-up images. Writes augmentation.md,
    augmentation.json and augmentation.png to the folder OUT.
    """
    refuse_ranks()
    from lockstep.bench.augmentation import CASES, TINY_CASES, benchmark_augmentation

    words = _words("augmentation", rounds=rounds, steps=steps, out=out, tiny=tiny)
    cases = with_steps(TINY_CASES if tiny else CASES, steps)
    benchmark_augmentation(rounds, cases, out, _command(words))


@bench.command()
@click.option("--ranks", default="1,2", show_default=True, help="Numbers of ranks, beside 1.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Repetitions.")
@click.option(
    "--steps", type=click.IntRange(1), help="Least of a round; as many as take 0.4 s if unset."
)
@_out
@_tiny
def scaling(ranks: str, rounds: int, steps: int | None, out: Path, *, tiny: bool) -> None:
    """Compare step times of several numbers of ranks, and where the time goes.

    Strong and weak scaling, beside PyTorch's DistributedDataParallel on as many processes if it is
    installed: `pip install 'lockstep-sgd[peers]'`. Starts as many MPI ranks as it needs; under an
    MPI launcher, it takes those that are there. Writes scaling.md, scaling.json and scaling.png to
    the folder OUT.
    """
    words = _words("scaling", ranks=ranks, rounds=rounds, steps=steps, out=out, tiny=tiny)
    communicator, rank_counts = _connect_or_start(ranks, words)
    from lockstep.bench.scaling import CASES, TINY_CASES, benchmark_scaling

    cases = with_steps(TINY_CASES if tiny else CASES, steps)
    benchmark_scaling(communicator, rank_counts, rounds, cases, out, _command(words))


@bench.command()
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Repetitions.")
@click.option("--large", is_flag=True, help="A data set of 2 GB as well.")
@_out
@_tiny
def memory(rounds: int, out: Path, *, large: bool, tiny: bool) -> None:
    """Measure the memory that a rank needs at most, by the size of the data and of the model.

    Each training is a process of its own, on made-up data sets of up to 1 GB in the folder for
    temporary files, with `memory_budget_mb = 256`. Writes memory.md, memory.json and memory.png to
    the folder OUT.
    """
    refuse_ranks()
    from lockstep.bench.memory import PLAN, TINY_PLAN, benchmark_memory, with_large_data

    plan = TINY_PLAN if tiny else PLAN
    words = _words("memory", rounds=rounds, large=large, out=out, tiny=tiny)
    benchmark_memory(with_large_data(plan) if large else plan, rounds, out, _command(words))


@bench.command()
@click.option("--data", type=_FILE, required=True, help="Data set file, with a validation split.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="How many.")
@click.option(
    "--epochs", type=click.IntRange(1), default=10, show_default=True, help="Of each training."
)
@_peers
@_out
def accuracy(data: Path, seeds: int, epochs: int, peers: str | None, out: Path) -> None:
    """Compare the time to 97 % and 98 % of the validation split with other libraries.

    One process with one thread trains a network with Lockstep, PyTorch, scikit-learn's
    MLPClassifier and JAX, as far as they are installed: `pip install 'lockstep-sgd[peers]'`. Made
    for MNIST. Writes accuracy.md, accuracy.json and accuracy.png to the folder OUT.
    """
    refuse_ranks()
    from lockstep.bench.accuracy import benchmark_accuracy
    from lockstep.bench.peers.peer import PEERS, peers_named

    chosen = peers_named(peers, [peer for peer in PEERS if peer.knows_adamw])
    words = _words("accuracy", data=data, seeds=seeds, epochs=epochs, peers=peers, out=out)
    benchmark_accuracy(data, chosen, seeds, epochs, out, _command(words))


def _connect_or_start(ranks: str, words: list[str]) -> tuple[Communicator, list[int]]:
    """Return the ranks, and on how many of them to measure.

    Where no launcher has started more than one rank, and more are needed, this process becomes
    their launcher instead.
    """
    communicator = connect()
    rank_counts = together(communicator, lambda: rank_counts_of(ranks, communicator.world_size))
    if max(rank_counts) > communicator.world_size == 1:
        start_ranks(Launch(max(rank_counts)), words)
    return communicator, rank_counts


def _words(benchmark: str, **values: object) -> list[str]:
    """Return a command line without the program's name, with the options that are set."""
    options = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in values.items()
        if value
    ]
    return ["bench", benchmark, *options]


def _command(words: list[str]) -> str:
    """Return what repeats the benchmark."""
    return shlex.join(["lockstep", *words])
