"""The time of a step beside that of other libraries, and beside its matrix products alone."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

import click
from threadpoolctl import threadpool_limits

from lockstep.bench.case import SGD, Case, steps_only
from lockstep.bench.contestants import LOCKSTEP, PRODUCTS
from lockstep.bench.environment import environment
from lockstep.bench.made_up import made_up_dataset
from lockstep.bench.peers.peer import Peer, UnavailableError, packages
from lockstep.bench.peers.task import Samples, Task
from lockstep.bench.products import Products
from lockstep.bench.rounds import Contestant, take_turns, warm_up
from lockstep.bench.step_measurement import StepMeasurement
from lockstep.bench.steps import mean_s, time_steps
from lockstep.data.dataset_file import DatasetFile
from lockstep.parallel.single import SingleProcess
from lockstep.storage.run_folder import make_folder
from lockstep.train.run import resolve

CASES = (
    Case((64, 32, 16), 10, activation="sigmoid"),
    Case((64, 32, 16), 64, activation="sigmoid"),
    Case((128,), 128),
    Case((512, 512), 128),
    Case((512, 512), 1024),
    Case((2500, 2000, 1500, 1000, 500), 1024),
)
# For a quick look at whether all works.
TINY_CASES = (Case((8,), 32, activation="sigmoid"), Case((16, 8), 64))


def benchmark_step(
    peers: Sequence[Peer], num_rounds: int, cases: Sequence[Case], out: Path, command: str
) -> None:
    """Measure, tell the figures, and write them to a folder.

    Parameters
    ----------
    peers : sequence of Peer
        To compare with, as far as they are installed.
    num_rounds : int
        In each, all have their turn.
    cases : sequence of Case
        The networks.
    out : Path
        The folder for `step.json`, `step.md` and `step.png`.
    command : str
        What repeats the benchmark.

    Raises
    ------
    UserError
        When the folder can't be made.
    """
    make_folder(out)
    measurements = []
    with threadpool_limits(1, user_api="blas"), made_up_dataset() as dataset:
        facts = environment(SingleProcess(), command, packages(peers))
        for case in cases:
            measurements.append(measure(case, dataset, peers, num_rounds))
            click.echo(f"Measured {measurements[-1].network}, batch {case.global_batch_size}")

    from lockstep.bench.step_report import publish  # noqa: PLC0415 - plots

    publish(measurements, facts, out)


def measure(
    case: Case, dataset: DatasetFile, peers: Iterable[Peer], num_rounds: int
) -> StepMeasurement:
    """Measure all contestants, round by round.

    Parameters
    ----------
    case : Case
        The network.
    dataset : DatasetFile
        Open.
    peers : iterable of Peer
        To compare with.
    num_rounds : int
        How many rounds.
    """
    config = resolve(steps_only(case, SGD), world_size=1)
    task = Task.of(config, dataset, Samples.read(dataset, "train"))
    products = Products(task.network.widths, case.global_batch_size)
    contestants: dict[str, Contestant] = {
        PRODUCTS: partial(mean_s, products.train),
        LOCKSTEP: lambda num_steps: time_steps(config, dataset, SingleProcess(), num_steps).step_s,
    }
    absent = {}
    for peer in peers:
        try:
            contestants[peer.name] = partial(mean_s, peer.start(task).train)
        except UnavailableError as error:
            absent[peer.name] = str(error)

    num_steps = {name: warm_up(one, case.num_steps) for name, one in contestants.items()}
    turns = take_turns(
        {name: partial(_take_turn, one, num_steps[name]) for name, one in contestants.items()},
        num_rounds,
    )
    return StepMeasurement(
        network=str(task.network),
        activation=case.activation,
        num_parameters=task.network.num_parameters,
        global_batch_size=case.global_batch_size,
        num_flops=products.num_flops,
        num_steps=num_steps,
        step_s={name: [turn.step_s for turn in own] for name, own in turns.items()},
        num_cores={name: median(turn.num_cores for turn in own) for name, own in turns.items()},
        absent=absent,
    )


@dataclass(frozen=True)
class _Turn:
    step_s: float
    num_cores: float


def _take_turn(contestant: Contestant, num_steps: int) -> _Turn:
    start_s, start_cpu_s = perf_counter(), process_time()
    step_s = contestant(num_steps)
    return _Turn(step_s, (process_time() - start_cpu_s) / (perf_counter() - start_s))
