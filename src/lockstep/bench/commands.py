"""The commands `lockstep bench ...`.

What they need is imported inside them: see `lockstep.cli`.
"""

import shlex
from pathlib import Path

import click

from lockstep.parallel.launch import connect, rank_counts_of, start_ranks
from lockstep.parallel.verdict import together

_FILE = click.Path(path_type=Path)


@click.group()
def bench() -> None:
    """Measure what parts of a training cost."""


@bench.command()
@click.option("--ranks", default="1,2,4", show_default=True, help="Numbers of ranks to measure on.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True, help="Repetitions.")
@click.option("--steps", type=click.IntRange(1), help="Of a round; by network if unset.")
@click.option(
    "--out", type=_FILE, default="results/bench", show_default=True, help="Folder for the figures."
)
@click.option("--tiny", is_flag=True, hidden=True, help="Tiny networks, to see whether all works.")
def reduction(ranks: str, rounds: int, steps: int | None, out: Path, *, tiny: bool) -> None:
    """Compare step times of the ordered reduction, of MPI's own, and of none.

    Starts as many MPI ranks as it needs; under an MPI launcher, it takes those that are there.
    Writes reduction.md, reduction.json and reduction.png to the folder OUT.
    """
    words = ["bench", "reduction", f"--ranks={ranks}"]
    words += [f"--rounds={rounds}", *([f"--steps={steps}"] if steps else []), f"--out={out}"]
    words += ["--tiny"] if tiny else []
    communicator = connect()
    rank_counts = together(communicator, lambda: rank_counts_of(ranks, communicator.world_size))
    if max(rank_counts) > communicator.world_size == 1:
        start_ranks(max(rank_counts), words)
    from lockstep.bench.reduction import CASES, TINY_CASES, benchmark_reduction, with_steps

    cases = with_steps(TINY_CASES if tiny else CASES, steps)
    command = shlex.join(["lockstep", *words])
    benchmark_reduction(communicator, rank_counts, rounds, cases, out, command)
