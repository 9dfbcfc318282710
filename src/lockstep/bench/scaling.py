"""How much faster more ranks are: strong and weak scaling, beside PyTorch on as many processes."""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from threadpoolctl import threadpool_limits

from lockstep.bench.case import SGD, Case, steps_only
from lockstep.bench.contestants import LOCKSTEP
from lockstep.bench.environment import environment
from lockstep.bench.made_up import made_up_dataset
from lockstep.bench.peers.peer import Peer, UnavailableError, packages
from lockstep.bench.peers.task import Samples, Task
from lockstep.bench.ranks import check_ranks, slowest_s
from lockstep.bench.rounds import TURN_S, take_turns
from lockstep.bench.scaling_measurement import BOTH, DDP, PHASES, STRONG, WEAK, ScalingMeasurement
from lockstep.bench.scaling_phases import Phases, time_phases
from lockstep.bench.steps import mean_s
from lockstep.config import Config
from lockstep.data.dataset_file import DatasetFile
from lockstep.data.shards import Sharding
from lockstep.parallel.communicator import Communicator
from lockstep.parallel.crowding import is_crowded
from lockstep.parallel.verdict import on_first_ranks, on_root
from lockstep.storage.run_folder import make_folder
from lockstep.train.blueprint import network_of
from lockstep.train.run import resolve

if TYPE_CHECKING:
    from lockstep.bench.peers.torch_ddp import Processes

CASES = (
    Case((64, 32, 16), 10, activation="sigmoid"),
    Case((128,), 128),
    Case((512, 512), 128),
    Case((512, 512), 1024),
)
# For a quick look at whether all works.
TINY_CASES = (Case((8,), 32, activation="sigmoid"), Case((16, 8), 64))

PEER = Peer(DDP, "torch", "torch_ddp:Processes")
# Steps before a turn of PyTorch: caches are filled, and all processes set out together.
_WARM_UP = 5
# An epoch has at least four steps of the largest case.
_ROWS_PER_RANK = 4 * 1024


# Trains a turn, on all ranks of a group.
Contestant = Callable[[], Phases]


@dataclass(frozen=True)
class Point:
    """One number of ranks, and what they train."""

    scaling: str
    num_ranks: int
    case: Case
    one_rank_batch_size: int

    @property
    def name(self) -> str:
        """Which it is among those of a network."""
        return f"{self.scaling} {self.num_ranks}"

    @property
    def config(self) -> Config:
        """The training, with as many virtual ranks as ranks."""
        return resolve(steps_only(self.case, SGD), self.num_ranks)


def benchmark_scaling(
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
        On how many of them to measure; one rank is always measured too.
    num_rounds : int
        In each, all numbers of ranks and both contestants have their turn.
    cases : sequence of Case
        The networks, and the global batch sizes on one rank.
    out : Path
        The folder for `scaling.json`, `scaling.md` and `scaling.png`.
    command : str
        What repeats the benchmark.

    Raises
    ------
    SharedError
        When there are too few ranks, or the folder can't be made.
    """
    check_ranks(communicator, rank_counts)
    on_root(communicator, lambda: make_folder(out))
    absent = _reason_to_go_without_peer(communicator)
    num_rows = _ROWS_PER_RANK * max(2, *rank_counts)
    with (
        threadpool_limits(1, user_api="blas"),
        made_up_dataset(num_rows) as dataset,
        nullcontext() if absent else PEER.load()(communicator) as processes,
    ):
        facts = environment(communicator, command, packages([PEER]))
        bench = Bench(communicator, dataset, processes, {DDP: absent} if absent else {})
        measurements = []
        for case in cases:
            measurements += bench.measure(case, rank_counts, num_rounds)

    def tell() -> None:
        from lockstep.bench.scaling_report import publish  # noqa: PLC0415 - plots

        publish(measurements, facts, out)

    on_root(communicator, tell)


def _reason_to_go_without_peer(communicator: Communicator) -> str:
    """Return why some rank can't load the peer, or nothing; collective."""
    reason = ""
    try:
        PEER.load()
    except UnavailableError as error:
        reason = str(error)
    return next(filter(None, communicator.gather_texts(reason)), "")


def points_of(case: Case, rank_counts: Sequence[int]) -> list[Point]:
    """Return what is measured: one rank, then strong and weak scaling on each other number."""
    base = case.global_batch_size
    points = [Point(BOTH, 1, case, base)]
    for num_ranks in sorted({*rank_counts} - {1}):
        larger = replace(case, global_batch_size=num_ranks * base)
        points += [Point(STRONG, num_ranks, case, base), Point(WEAK, num_ranks, larger, base)]
    return points


class Bench:
    """Measures networks on several numbers of ranks; collective.

    Parameters
    ----------
    communicator : Communicator
        All ranks.
    dataset : DatasetFile
        Open.
    processes : Processes or None
        The ranks as the peer's processes, if it is there.
    absent : dict of str to str
        Why it is not.
    """

    def __init__(
        self,
        communicator: Communicator,
        dataset: DatasetFile,
        processes: "Processes | None",
        absent: dict[str, str],
    ) -> None:
        self._communicator = communicator
        self._dataset = dataset
        self._processes = processes
        self._absent = absent
        self._samples = Samples.read(dataset, "train")
        # Numbers of ranks for which there are too few cores.
        self._crowded: set[int] = set()

    def measure(
        self, case: Case, rank_counts: Sequence[int], num_rounds: int
    ) -> list[ScalingMeasurement]:
        """Measure a network, round by round.

        Parameters
        ----------
        case : Case
            The network, and its global batch size on one rank.
        rank_counts : sequence of int
            On how many ranks.
        num_rounds : int
            How many rounds.

        Returns
        -------
        list of ScalingMeasurement
            By number of ranks; on the root only.
        """
        points = points_of(case, rank_counts)
        started = [self._start(point) for point in points]
        turns = take_turns(
            {
                point.name: partial(self._take_turns, point, contestants)
                for point, contestants in zip(points, started, strict=True)
            },
            num_rounds,
        )
        if self._communicator.rank != 0:
            return []
        # The root takes part everywhere.
        rounds = {name: _by_contestant(filter(None, own)) for name, own in turns.items()}
        measured = [
            self._measurement(point, rounds[point.name], rounds[points[0].name]) for point in points
        ]
        click.echo(f"Measured {measured[0].network}, batch {case.global_batch_size}")
        return measured

    def _start(self, point: Point) -> dict[str, Contestant] | None:
        """Set up both contestants on the ranks that take part."""
        if self._processes:
            self._processes.prepare(point.num_ranks)
        return on_first_ranks(self._communicator, point.num_ranks, partial(self._contest, point))

    def _take_turns(
        self, point: Point, contestants: dict[str, Contestant] | None
    ) -> dict[str, Phases] | None:
        """Let both contestants train, one after the other, on the ranks that take part."""

        def train(group: Communicator) -> dict[str, Phases]:
            del group
            return {name: contestant() for name, contestant in (contestants or {}).items()}

        return on_first_ranks(self._communicator, point.num_ranks, train)

    def _contest(self, point: Point, group: Communicator) -> dict[str, Contestant]:
        if is_crowded(group):
            self._crowded.add(point.num_ranks)
        contestants = {LOCKSTEP: self._lockstep(point, group)}
        if self._processes:
            contestants[DDP] = self._peer(point, group, self._processes)
        return contestants

    def _lockstep(self, point: Point, group: Communicator) -> Contestant:
        """Return what trains with Lockstep, in whole epochs."""
        train = partial(time_phases, point.config, self._dataset, group)
        one_epoch = train(1)
        num_steps = point.case.num_steps or TURN_S / one_epoch.step_s
        return partial(train, math.ceil(num_steps / one_epoch.num_steps))

    def _peer(self, point: Point, group: Communicator, processes: "Processes") -> Contestant:
        """Return what trains with PyTorch."""
        task = share_of(point.config, self._dataset, self._samples, group.rank)
        training = processes.start(task, point.num_ranks)

        def train(num_steps: int) -> Phases:
            training.train(_WARM_UP)
            own_s = mean_s(training.train, num_steps)
            return Phases(slowest_s(group, own_s), num_steps, {})

        num_steps = point.case.num_steps or round(TURN_S / train(_WARM_UP).step_s)
        return partial(train, max(1, num_steps))

    def _measurement(
        self,
        point: Point,
        rounds: dict[str, list[Phases]],
        one_rank_rounds: dict[str, list[Phases]],
    ) -> ScalingMeasurement:
        network = network_of(point.config, self._dataset.info)
        own = rounds[LOCKSTEP]
        return ScalingMeasurement(
            network=str(network),
            activation=point.case.activation,
            num_parameters=network.num_parameters,
            scaling=point.scaling,
            num_ranks=point.num_ranks,
            global_batch_size=point.case.global_batch_size,
            one_rank_batch_size=point.one_rank_batch_size,
            is_crowded=point.num_ranks in self._crowded,
            num_steps={name: turns[0].num_steps for name, turns in rounds.items()},
            step_s=_step_s(rounds),
            one_rank_step_s=_step_s(one_rank_rounds),
            phase_s={phase: [turn.phase_s[phase] for turn in own] for phase in PHASES},
            absent=self._absent,
        )


def share_of(config: Config, dataset: DatasetFile, samples: Samples, rank: int) -> Task:
    """Return a process's share: the same rows and local batches as Lockstep's.

    Parameters
    ----------
    config : Config
        Resolved, with as many virtual ranks as ranks.
    dataset : DatasetFile
        Open.
    samples : Samples
        All training rows.
    rank : int
        Which process.
    """
    training = config.training
    sharding = Sharding(len(samples.y), training.global_batch_size, training.virtual_ranks)
    rows = sharding.shards[rank]
    local = replace(training, global_batch_size=sharding.local_batch_sizes[rank])
    own = Samples(samples.x[rows.start : rows.stop], samples.y[rows.start : rows.stop])
    return Task.of(replace(config, training=local), dataset, own)


def _by_contestant(rounds: Iterable[dict[str, Phases]]) -> dict[str, list[Phases]]:
    turns = list(rounds)
    return {name: [turn[name] for turn in turns] for name in turns[0]}


def _step_s(rounds: dict[str, list[Phases]]) -> dict[str, list[float]]:
    return {name: [turn.step_s for turn in turns] for name, turns in rounds.items()}
