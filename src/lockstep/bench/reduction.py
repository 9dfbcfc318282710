"""What the ordered reduction costs: step times beside the MPI library's sum, and beside none."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
from threadpoolctl import threadpool_limits

from lockstep.bench.apart import Apart
from lockstep.bench.case import Case, steps_only
from lockstep.bench.environment import environment
from lockstep.bench.made_up import made_up_dataset
from lockstep.bench.ranks import check_ranks, slowest_s
from lockstep.bench.reduction_measurement import KINDS, Measurement
from lockstep.bench.rounds import take_turns
from lockstep.bench.steps import Timed, time_steps
from lockstep.config import Config, Optimization
from lockstep.data.dataset_file import DatasetFile
from lockstep.parallel.communicator import Communicator
from lockstep.parallel.crowding import is_crowded
from lockstep.parallel.verdict import on_first_ranks, on_root
from lockstep.storage.run_folder import make_folder
from lockstep.train.blueprint import network_of
from lockstep.train.run import resolve

CASES = (Case((128,), 128, 1000), Case((512, 512), 128, 200), Case((2048, 2048), 512, 16))
# For a quick look at whether all works.
TINY_CASES = (Case((8,), 32, 10), Case((16, 8), 64, 5))


def benchmark_reduction(
    communicator: Communicator,
    rank_counts: Sequence[int],
    num_rounds: int,
    cases: Sequence[Case],
    out: Path,
    command: str,
) -> None:
    """Measure, tell the figures, and write them to a folder; collective.

    Parameters
    ----------
    communicator : Communicator
        All ranks.
    rank_counts : sequence of int
        On how many of them to measure.
    num_rounds : int
        In each, all kinds take their turn.
    cases : sequence of Case
        The networks.
    out : Path
        The folder for `reduction.json`, `reduction.md` and `reduction.png`.
    command : str
        What repeats the benchmark.

    Raises
    ------
    SharedError
        When there are too few ranks, or the folder can't be made.
    """
    check_ranks(communicator, rank_counts)
    on_root(communicator, lambda: make_folder(out))
    with threadpool_limits(1, user_api="blas"), made_up_dataset() as dataset:
        facts = environment(communicator, command)
        measurements: list[Measurement] = []

        def measure_all(group: Communicator) -> list[Measurement]:
            return [_measure_and_tell(case, dataset, group, num_rounds) for case in cases]

        for num_ranks in rank_counts:
            measurements += on_first_ranks(communicator, num_ranks, measure_all) or []

    def tell() -> None:
        from lockstep.bench.reduction_report import publish  # noqa: PLC0415 - plots

        publish(measurements, facts, out)

    on_root(communicator, tell)


def _measure_and_tell(
    case: Case, dataset: DatasetFile, group: Communicator, num_rounds: int
) -> Measurement:
    measurement = measure(case, dataset, group, num_rounds)
    if group.rank == 0:
        click.echo(f"Measured {measurement.network} on ranks: {group.world_size}")
    return measurement


def measure(case: Case, dataset: DatasetFile, group: Communicator, num_rounds: int) -> Measurement:
    """Measure all kinds, round by round; collective.

    Parameters
    ----------
    case : Case
        The network.
    dataset : DatasetFile
        Open.
    group : Communicator
        The ranks.
    num_rounds : int
        How many rounds. What else happens on the machine meets all kinds of a round alike.

    Returns
    -------
    Measurement
        The same on all ranks.
    """
    turns = take_turns(
        {kind: partial(_time, kind, case, dataset, group) for kind in KINDS}, num_rounds
    )
    network = network_of(_config("none", case), dataset.info)
    return Measurement(
        network="-".join(map(str, network.widths)),
        num_parameters=network.num_parameters,
        global_batch_size=case.global_batch_size,
        num_ranks=group.world_size,
        num_steps=case.num_steps,
        is_crowded=is_crowded(group),
        step_s={kind: [timed.step_s for timed in turns[kind]] for kind in KINDS},
        ways={kind: [timed.way for timed in turns[kind]] for kind in KINDS},
    )


def _time(kind: str, case: Case, dataset: DatasetFile, group: Communicator) -> Timed:
    """Time the steps of one kind; the slowest rank counts."""
    config = resolve(_config(kind, case), group.world_size)
    ranks = Apart(group) if kind == "none" else group
    timed = time_steps(config, dataset, ranks, case.num_steps)
    return replace(timed, step_s=slowest_s(group, timed.step_s))


def _config(kind: str, case: Case) -> Config:
    optimization = Optimization(optimizer="adamw", schedule="constant")
    return steps_only(case, optimization, "mpi" if kind == "mpi" else "ordered")
