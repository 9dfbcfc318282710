"""Whether there is room for a training in memory; told before any of it is allocated."""

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lockstep.config import Config
from lockstep.data.dataset_file import DatasetInfo
from lockstep.errors import SharedError, UserError
from lockstep.parallel.binding import ranges
from lockstep.parallel.communicator import Communicator
from lockstep.resources import memory_rooms
from lockstep.train.blueprint import network_of
from lockstep.train.footprint import Footprint, estimate

# Parts of less than this fraction of the whole are told together.
_SMALL_PART = 0.02


@dataclass(frozen=True)
class Demand:
    """What a rank will allocate, and what it finds.

    Parameters
    ----------
    footprint : Footprint
        The estimate.
    rooms : mapping of str to int
        Bytes by room; see `memory_rooms`.
    """

    footprint: Footprint
    rooms: Mapping[str, int]


@dataclass(frozen=True)
class _Shortage:
    """A room that is too small for its ranks."""

    ranks: tuple[int, ...]
    room: str
    needed_bytes: int
    available_bytes: int

    def __str__(self) -> str:
        return (
            f"{_rank_text(self.ranks)} would take about {_size_text(self.needed_bytes)}"
            f"{' together' * (len(self.ranks) > 1)}, and {_size_text(self.available_bytes)} "
            f"are available on {self.room}"
        )


def check_room(
    config: Config, info: DatasetInfo, communicator: Communicator, *, is_resumed: bool = False
) -> None:
    """See that all ranks have room for a training; collective.

    Parameters
    ----------
    config : Config
        Resolved.
    info : DatasetInfo
        What is trained on.
    communicator : Communicator
        The ranks.
    is_resumed : bool
        Whether the training goes on from a checkpoint.

    Raises
    ------
    SharedError
        On all ranks, naming each host or group of ranks that is short of memory, what takes it,
        and what helps.
    """
    check_room_side_by_side(
        [(config, info)], communicator, communicator.world_size, is_resumed=is_resumed
    )


def check_room_side_by_side(
    trainings: Sequence[tuple[Config, DatasetInfo]],
    communicator: Communicator,
    group_size: int,
    *,
    is_resumed: bool = False,
) -> None:
    """See that groups of ranks have room for one training each, at a time; collective.

    Which group comes to which training is not known beforehand, so each rank counts what the most
    demanding one would take.

    Parameters
    ----------
    trainings : sequence of (Config, DatasetInfo)
        Resolved configurations, and what they train on.
    communicator : Communicator
        All ranks. Those that are left over take nothing.
    group_size : int
        Neighbours that train together.
    is_resumed : bool
        Whether the trainings go on from checkpoints.

    Raises
    ------
    SharedError
        On all ranks, as `check_room`, with the training that takes most of rank 0.
    """
    hosts = communicator.gather_texts(socket.gethostname())
    group, rank = divmod(communicator.rank, group_size)
    group_hosts = hosts[group * group_size : (group + 1) * group_size]
    footprints = [Footprint({})]
    if len(group_hosts) == group_size:
        footprints = [
            estimate(*training, group_hosts, rank, is_resumed=is_resumed) for training in trainings
        ]
    number = max(range(len(footprints)), key=lambda one: footprints[one].num_bytes)
    facts = (number, footprints[number].parts, memory_rooms())
    told = [json.loads(text) for text in communicator.gather_texts(json.dumps(facts))]
    demands = [Demand(Footprint(parts), rooms) for _, parts, rooms in told]
    most_demanding: int = told[0][0]
    message = shortage_text(*trainings[most_demanding], demands)
    if message:
        raise SharedError(message)


def check_room_here(config: Config, info: DatasetInfo, num_ranks: int) -> None:
    """See that this host has room for a training on so many ranks, before they are started.

    Raises
    ------
    UserError
        As `check_room`.
    """
    hosts, rooms = [socket.gethostname()] * num_ranks, memory_rooms()
    demands = [Demand(estimate(config, info, hosts, rank), rooms) for rank in range(num_ranks)]
    message = shortage_text(config, info, demands)
    if message:
        raise UserError(message)


def check_room_on_nodes(
    config: Config,
    info: DatasetInfo,
    num_nodes: int,
    ranks_per_node: int,
    memory_bytes: int | None,
) -> int:
    """See that the memory asked for on each of some nodes is enough for their ranks.

    Returns
    -------
    int
        Bytes that the ranks of a node take at most.

    Raises
    ------
    UserError
        As `check_room`.
    """
    nodes = [f"node {rank // ranks_per_node + 1}" for rank in range(num_nodes * ranks_per_node)]
    footprints = [
        Footprint(estimate(config, info, nodes, rank).parts | {"Python": _program_bytes(rank)})
        for rank in range(len(nodes))
    ]
    if memory_bytes is not None:
        rooms = [{f"{node} of the job, by --memory-per-node-mb": memory_bytes} for node in nodes]
        demands = [Demand(*pair) for pair in zip(footprints, rooms, strict=True)]
        message = shortage_text(config, info, demands)
        if message:
            raise UserError(f"{message} Ask for more by --memory-per-node-mb.")
    return max(
        sum(footprint.num_bytes for footprint in footprints[first : first + ranks_per_node])
        for first in range(0, len(nodes), ranks_per_node)
    )


def _program_bytes(rank: int) -> int:
    """Return what a process takes beside the training, measured on Linux; the root draws plots."""
    return 250_000_000 if rank == 0 else 100_000_000


def shortage_text(config: Config, info: DatasetInfo, demands: Sequence[Demand]) -> str:
    """Return what is short and what helps, or nothing where there is room.

    Parameters
    ----------
    config : Config
        Resolved.
    info : DatasetInfo
        What is trained on.
    demands : sequence of Demand
        By rank.
    """
    shortages = list(_shortages(demands))
    if not shortages:
        return ""
    network, training = network_of(config, info), config.training
    ranks = max(shortages, key=lambda one: one.needed_bytes).ranks
    largest = max(ranks, key=lambda rank: demands[rank].footprint.num_bytes)
    are_several = any(len(shortage.ranks) > 1 for shortage in shortages)
    return (
        f"Not enough memory: {'; '.join(map(str, shortages))}.\n"
        f"  Rank {largest} takes {_parts_text(demands[largest].footprint)}.\n"
        f"  The network {network} has {network.num_parameters:,} parameters of "
        f"{config.network.dtype}, global_batch_size is {training.global_batch_size}, "
        f"virtual_ranks {training.virtual_ranks}, memory_budget_mb "
        f"{config.data.memory_budget_mb:g}.\n"
        "Lower hidden_widths, global_batch_size, virtual_ranks or memory_budget_mb"
        f"{', start fewer ranks on a host' * are_several}, or get more memory."
    )


def _shortages(demands: Sequence[Demand]) -> Iterator[_Shortage]:
    """Yield the rooms that are too small, but of those that the same ranks share, one."""
    tightest: dict[tuple[int, ...], _Shortage] = {}
    for room in dict.fromkeys(room for demand in demands for room in demand.rooms):
        ranks = tuple(rank for rank, demand in enumerate(demands) if room in demand.rooms)
        needed_bytes = sum(demands[rank].footprint.num_bytes for rank in ranks)
        available_bytes = min(demands[rank].rooms[room] for rank in ranks)
        other = tightest.get(ranks)
        is_tighter = other is None or available_bytes < other.available_bytes
        if needed_bytes > available_bytes and is_tighter:
            tightest[ranks] = _Shortage(ranks, room, needed_bytes, available_bytes)
    yield from tightest.values()


def _parts_text(footprint: Footprint) -> str:
    """Return what takes how much, the most first."""
    parts = sorted(footprint.parts.items(), key=lambda part: -part[1])
    least_bytes = _SMALL_PART * footprint.num_bytes
    named = [f"{what} {_size_text(size)}" for what, size in parts if size >= least_bytes]
    rest_bytes = sum(size for _, size in parts if size < least_bytes)
    named += [f"others {_size_text(rest_bytes)}"] if rest_bytes else []
    return f"about {_size_text(footprint.num_bytes)}: {', '.join(named)}"


def _rank_text(ranks: Sequence[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {ranges(ranks)}"


def _size_text(num_bytes: int) -> str:
    unit, name = (10**9, "GB") if num_bytes >= 10**9 else (10**6, "MB")
    return f"{num_bytes / unit:,.1f} {name}"
