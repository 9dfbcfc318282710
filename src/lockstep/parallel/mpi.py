"""The communicator of MPI ranks. Only this module imports mpi4py."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial, wraps
from math import prod
from pathlib import Path
from shutil import disk_usage
from typing import Any, TypeVar, cast

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike

from lockstep.arrays import Array
from lockstep.parallel import watch
from lockstep.parallel.choice import fastest, self_test
from lockstep.parallel.communicator import Doing, Reduction
from lockstep.parallel.crowding import is_crowded
from lockstep.parallel.exchange import AllToAll, Direct, Exchange, HalvingDoubling, Request
from lockstep.parallel.failure import TELLER
from lockstep.parallel.heartbeat import Connection
from lockstep.parallel.launch import launched_as
from lockstep.parallel.library import LibraryReduction
from lockstep.parallel.ordered import Memory, OrderedReduction, OwnMemory, Place
from lockstep.parallel.single import LocalReduction
from lockstep.parallel.subtotals import Subtotals
from lockstep.parallel.tree import block
from lockstep.parallel.watch import Watch

# Where Linux keeps it. A window that doesn't fit would end the job with a bus error.
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - nothing is written there by name
# Vectors up to this size are worth trying to send whole.
_SMALL_BYTES = 1_000_000
# Set by Open MPI's `mpiexec --with-ft ulfm`.
_FAULT_TOLERANCE = "OMPI_MCA_mpi_ft_enable"
# How long a rank that has nothing to do stays alert, and then sleeps between two looks.
_REST_S = 0.01


Method = TypeVar("Method", bound=Callable[..., Any])


def _waits(method: Method) -> Method:
    """Let the watchdog know that in this method the rank waits for others."""

    @wraps(method)
    def waiting(self: "MPIRanks", *arguments: object, **options: object) -> object:
        if self._watch is None:
            return method(self, *arguments, **options)
        before, self._watch.is_waiting = self._watch.is_waiting, True
        try:
            return method(self, *arguments, **options)
        finally:
            self._watch.is_waiting = before

    return cast("Method", waiting)


class MPIRanks:
    """The ranks of an MPI communicator; see `Communicator`.

    Parameters
    ----------
    comm : MPI.Comm
        Its ranks; by default all of them.
    watch : Watch, optional
        This rank's watchdog.
    """

    def __init__(self, comm: MPI.Comm = MPI.COMM_WORLD, watch: Watch | None = None) -> None:
        self._comm = comm
        self._watch = watch
        self._groups: dict[tuple[str, int], MPIRanks | None] = {}
        # Where ranks may wait that don't hear of a loss elsewhere.
        self._parts: list[MPI.Comm] = []
        self.rank = comm.Get_rank()
        self.world_size = comm.Get_size()
        self.library: str | None = " ".join(
            MPI.Get_library_version().splitlines()[0].strip("\0").split()
        )

    @_waits
    def gather_rows(self, rows: Array) -> Array:
        """Gather rows by Allgatherv."""
        rows = np.ascontiguousarray(rows)
        num_rows = np.empty(self.world_size, np.int64)
        self._comm.Allgather(np.array([len(rows)], np.int64), num_rows)
        gathered = np.empty((num_rows.sum(), *rows.shape[1:]), rows.dtype)
        self._comm.Allgatherv(rows, (gathered, num_rows * prod(rows.shape[1:])))
        return gathered

    @_waits
    def gather_to_root(self, values: Array) -> list[Array]:
        """Gather values by Gatherv."""
        lengths = self.gather_rows(np.array([len(values)], np.int64))
        if self.rank != 0:
            self._comm.Gatherv(values, None)
            return []
        gathered = np.empty(lengths.sum(), values.dtype)
        self._comm.Gatherv(values, (gathered, lengths))
        return np.split(gathered, np.cumsum(lengths)[:-1])

    @_waits
    def sum_counts(self, counts: Array) -> Array:
        """Add integers by Allreduce: integer sums are exact in any order."""
        total = np.empty_like(counts)
        self._comm.Allreduce(counts, total)
        return total

    @_waits
    def gather_texts(self, text: str) -> list[str]:
        """Gather texts as rows of UTF-8 bytes."""
        encoded = np.frombuffer(text.encode(), np.uint8)
        lengths = self.gather_rows(np.array([len(encoded)], np.int64))
        joined = self.gather_rows(encoded)
        return [part.tobytes().decode() for part in np.split(joined, np.cumsum(lengths)[:-1])]

    @_waits
    def first_ranks(self, num_ranks: int) -> "MPIRanks | None":
        """Split the communicator, once for each number of ranks."""
        return self._split("first", num_ranks, 0 if self.rank < num_ranks else None)

    @_waits
    def group(self, num_ranks: int) -> "MPIRanks | None":
        """Split the communicator, once for each number of ranks."""
        number = self.rank // num_ranks
        is_whole = number < self.world_size // num_ranks
        if self._watch is not None:
            self._watch.group = number
        return self._split("group", num_ranks, number if is_whole else None)

    def _split(self, way: str, num_ranks: int, number: int | None) -> "MPIRanks | None":
        """Return the part of the communicator with this rank's number; None without one."""
        if (way, num_ranks) not in self._groups:
            comm = self._comm.Split(MPI.UNDEFINED if number is None else number, self.rank)
            group = None if number is None else MPIRanks(comm, self._watch)
            self._groups[way, num_ranks] = group
            self._keep(comm)
        return self._groups[way, num_ranks]

    @_waits
    def meet(self) -> None:
        """Wait for all ranks; after a moment, asleep most of the time."""
        request = self._comm.Ibarrier()
        alert_until_s = time.perf_counter() + _REST_S
        while not request.Test():
            if time.perf_counter() < alert_until_s:
                os.sched_yield()
            else:
                time.sleep(_REST_S)

    def reduction(
        self,
        kind: str,
        num_virtual_ranks: int,
        shapes: Sequence[tuple[int, ...]],
        dtype: DTypeLike,
        rehearse: Callable[[Reduction], None],
    ) -> Reduction:
        """Choose by topology, and by measurement where messages have to be sent."""
        if self.world_size == 1:
            return LocalReduction(num_virtual_ranks, shapes, dtype)
        own = block(self.rank, self.world_size, num_virtual_ranks)
        subtotals = Subtotals(own, num_virtual_ranks, shapes, dtype)
        is_ordered = kind == "ordered"
        candidates = self.ordered_ways(subtotals) if is_ordered else self.library_ways(subtotals)
        reduction = fastest(candidates, self, rehearse)
        self_test(reduction, self, num_virtual_ranks, in_order=is_ordered)
        return reduction

    def begin_watch(self, supervisor: Connection | None = None) -> None:
        """Start the watchdogs, perhaps with a connection that there is; collective."""
        self._watch = watch.begin(self, self.abort, supervisor, can_lose_ranks=self.can_lose_ranks)

    @property
    def can_lose_ranks(self) -> bool:
        """Whether the library lets the others go on when a rank has died, as the user asked."""
        is_asked_for = os.environ.get(_FAULT_TOLERANCE) == "1"
        return is_asked_for and self.world_size > 1

    def watch_over(
        self, look: Callable[[], Doing] | None, timeout_s: float = 0.0, remedy: str = ""
    ) -> None:
        """Tell the watchdog where to look."""
        if self._watch is not None:
            self._watch.look, self._watch.remedy = look or watch.idle, remedy
            self._watch.set_timeout(timeout_s if look else watch.DEFAULT_TIMEOUT_S)

    def survivors(self, error: Exception) -> "MPIRanks | None":
        """Return the ranks that are left, when the error tells of the loss of one.

        References
        ----------
        W. Bland, A. Bouteiller, T. Herault, G. Bosilca, J. Dongarra, "Post-failure recovery of
        MPI communication capability", IJHPCA 27 (2013): revoke, then shrink.
        """
        if not (self.can_lose_ranks and isinstance(error, MPI.Exception)):
            return None
        if error.Get_error_class() not in {MPI.ERR_PROC_FAILED, MPI.ERR_REVOKED}:
            return None
        # Others may be waiting for a rank that is alive and has come here.
        for comm in (*self._parts, self._comm):
            comm.Revoke()
        survivors = MPIRanks(self._comm.Shrink())
        launched = survivors.gather_rows(np.array([launched_as()[0]], np.int64))
        os.environ[TELLER] = str(launched[0])
        supervisor = self._watch.hand_over() if self._watch is not None else None
        watch.close_all()
        survivors.begin_watch(supervisor)
        return survivors

    def settle(self) -> None:
        """Agree that nobody was lost: all survivors see the same outcome."""
        if self.can_lose_ranks:
            self._comm.Agree(1)

    def _keep(self, part: MPI.Comm) -> MPI.Comm:
        if part != MPI.COMM_NULL:
            self._parts.append(part)
        return part

    def abort(self, exit_code: int) -> None:
        """End all ranks by MPI_Abort."""
        watch.announce_abort(exit_code)
        watch.close_all()
        self._comm.Abort(exit_code)

    def library_ways(self, subtotals: Subtotals) -> list[Callable[[], Reduction]]:
        """Return makers of the ways to leave the sum to the library."""
        messages = Messages(self._comm, self._wait)
        return [
            partial(LibraryReduction, name, messages, subtotals, by_group=by_group)
            for name, by_group in [
                ("MPI_Allreduce of the whole vector", False),
                ("MPI_Iallreduce layer by layer", True),
            ]
        ]

    def ordered_ways(self, subtotals: Subtotals) -> list[Callable[[], Reduction]]:
        """Return makers of the ways that may be the fastest here; all give the same bits."""
        nodes = self._nodes
        if nodes.comm is None or not self._have_room(nodes.place(subtotals), subtotals):
            # Without room for a window, every rank is a node of its own.
            nodes = self._single_ranks
        place = nodes.place(subtotals)
        where, ends = (
            ("shared memory", "nodes") if nodes.comm is not None else ("own memory", "ranks")
        )
        if len(place.blocks_by_node) == 1:
            return [partial(self._make, where, subtotals, nodes, None)]
        return [
            partial(self._make, f"{where}, {way} between {ends}", subtotals, nodes, exchange)
            for way, exchange in _ways_to_exchange(place, subtotals).items()
        ]

    def _make(
        self, name: str, subtotals: Subtotals, nodes: "_Nodes", exchange: "_Way | None"
    ) -> Reduction:
        place = nodes.place(subtotals)
        shape = len(place.row_nodes) + 1, subtotals.num_parameters
        memory: Memory
        if nodes.comm is None:
            memory = OwnMemory(*shape, subtotals.dtype)
        else:
            memory = SharedMemory(nodes.comm, self._wait, *shape, subtotals.dtype)
        make_exchange = partial(exchange, nodes.across) if exchange and nodes.across else None
        return OrderedReduction(name, subtotals, place, memory, make_exchange)

    def _have_room(self, place: Place, subtotals: Subtotals) -> bool:
        """Whether all nodes have that much free shared memory; containers often have little."""
        row_bytes = subtotals.num_parameters * subtotals.dtype.itemsize
        needed = (len(place.row_nodes) + 1) * row_bytes
        has_room = not _SHARED_MEMORY.is_dir() or disk_usage(_SHARED_MEMORY).free >= needed
        return bool(self.sum_counts(np.array([has_room], np.int64))[0] == self.world_size)

    def split_by_node(self) -> MPI.Intracomm:
        """Return the communicator of the ranks that can share memory with this one; collective."""
        return cast(
            "MPI.Intracomm", self._keep(self._comm.Split_type(MPI.COMM_TYPE_SHARED, self.rank))
        )

    @cached_property
    def _wait(self) -> "Wait":
        """How to wait within a step; collective."""
        return _wait_politely if is_crowded(self) else _wait_alert

    @cached_property
    def _nodes(self) -> "_Nodes":
        """The ranks by the memory that they share."""
        comm = self.split_by_node()
        first = np.array([self.rank], np.int64)
        comm.Bcast(first)
        firsts = self.gather_rows(first)
        ranks_by_node = [np.flatnonzero(firsts == one).tolist() for one in np.unique(firsts)]
        return self._arrange(ranks_by_node, comm)

    @cached_property
    def _single_ranks(self) -> "_Nodes":
        """The ranks, as if none of them shared memory."""
        return self._arrange([[rank] for rank in range(self.world_size)], None)

    def _arrange(self, ranks_by_node: list[list[int]], comm: MPI.Intracomm | None) -> "_Nodes":
        node = next(n for n, ranks in enumerate(ranks_by_node) if self.rank in ranks)
        local_rank = ranks_by_node[node].index(self.rank)
        num_parts = min(map(len, ranks_by_node))
        wait = self._wait
        across = None
        if len(ranks_by_node) > 1:
            # Those that have the same part of the vector on each node.
            color = local_rank if local_rank < num_parts else MPI.UNDEFINED
            column = self._keep(self._comm.Split(color, node))
            across = Messages(column, wait) if column != MPI.COMM_NULL else None
        is_shared = comm is not None and max(map(len, ranks_by_node)) > 1
        return _Nodes(ranks_by_node, node, local_rank, comm if is_shared else None, across)


class Messages:
    """Messages between the ranks of an MPI communicator; see `Peers` and `AllReduce`.

    All of them are non-blocking.

    Parameters
    ----------
    comm : MPI.Comm
        The ranks.
    wait : callable
        Waits for a request.
    """

    def __init__(self, comm: MPI.Comm, wait: "Wait") -> None:
        self._comm = comm
        self._wait = wait
        self.rank = comm.Get_rank()
        self.world_size = comm.Get_size()

    def start_all_to_all(
        self, packed: Array, counts: Array, received: Array, received_counts: Array
    ) -> Request:
        """Start an Ialltoallv."""
        return self._comm.Ialltoallv((packed, counts), (received, received_counts))

    def start_all_gather(self, total: Array, counts: Array) -> Request:
        """Start an Iallgatherv, in place."""
        return self._comm.Iallgatherv(MPI.IN_PLACE, (total, counts))

    def start_all_reduce(self, values: Array) -> Request:
        """Start an Iallreduce, in place."""
        return self._comm.Iallreduce(MPI.IN_PLACE, values)

    def start_send(self, peer: int, values: Array) -> Request:
        """Start an Isend."""
        return self._comm.Isend(values, peer)

    def start_receive(self, peer: int, values: Array) -> Request:
        """Start an Irecv."""
        return self._comm.Irecv(values, peer)

    def wait(self, requests: Sequence[Request]) -> None:
        """Wait for all."""
        for request in requests:
            self._wait(request)


class SharedMemory:
    """An MPI shared-memory window of the ranks of one node; see `Memory`."""

    def __init__(
        self,
        comm: MPI.Intracomm,
        wait: "Wait",
        num_rows: int,
        length: int,
        dtype: np.dtype[np.generic],
    ) -> None:
        self._comm = comm
        self._wait = wait
        num_bytes = num_rows * length * dtype.itemsize
        is_first = comm.Get_rank() == 0
        self._window = MPI.Win.Allocate_shared(
            num_bytes if is_first else 0, dtype.itemsize, comm=comm
        )
        # One passive epoch for the window's whole life; order comes from Sync and the barrier.
        self._window.Lock_all()
        memory, _ = self._window.Shared_query(0)
        # mpi4py's buffer has the buffer protocol, but its type stub can't say so before 3.12.
        self.rows: Array = np.ndarray((num_rows, length), dtype, buffer=memory)  # type: ignore[arg-type]

    def meet(self) -> None:
        """Pass a barrier."""
        self._window.Sync()
        self._wait(self._comm.Ibarrier())
        self._window.Sync()

    def free(self) -> None:
        """Free the window."""
        self._window.Unlock_all()
        self._window.Free()


# Waits for a request within a step.
Wait = Callable[[Request], None]


def _wait_alert(request: Request) -> None:
    """Wait on a core of one's own, which nobody else needs."""
    request.Wait()


def _wait_politely(request: Request) -> None:
    """Wait and let others have the core, for they may be the ones that are waited for."""
    while not request.Test():
        os.sched_yield()


@dataclass(frozen=True)
class _Nodes:
    """The nodes of the cluster, or each rank as a node of its own.

    `comm` holds the ranks that share memory with this one, if any node has several, and `across`
    those that have the same part of the vector on the other nodes, if there are any.
    """

    ranks_by_node: list[list[int]]
    node: int
    local_rank: int
    comm: MPI.Intracomm | None
    across: Messages | None

    def place(self, subtotals: Subtotals) -> Place:
        """Return where this rank stands in a sum."""
        world_size = sum(map(len, self.ranks_by_node))
        num_virtual_ranks = subtotals.num_virtual_ranks
        blocks = [
            [block(rank, world_size, num_virtual_ranks) for rank in ranks]
            for ranks in self.ranks_by_node
        ]
        return Place(blocks, self.node, self.local_rank, num_virtual_ranks)


# Makes an exchange from its peers, the rows and the total.
_Way = Callable[[Messages, Sequence[Array], Array], Exchange]


def _ways_to_exchange(place: Place, subtotals: Subtotals) -> dict[str, _Way]:
    """Return the ways between nodes that may be the fastest for this vector."""
    nodes_by_node = place.nodes_by_node

    def all_to_all(peers: Messages, rows: Sequence[Array], total: Array) -> Exchange:
        return AllToAll(peers, nodes_by_node, rows, total, [slice(0, total.size)])

    def by_layer(peers: Messages, rows: Sequence[Array], total: Array) -> Exchange:
        return AllToAll(peers, nodes_by_node, rows, total, subtotals.slices)

    def direct(peers: Messages, rows: Sequence[Array], total: Array) -> Exchange:
        return Direct(peers, nodes_by_node, rows, total)

    ways: dict[str, _Way] = {"all-to-all": all_to_all}
    if place.num_parts == 1 and max(map(len, place.blocks_by_node)) == 1:
        # Ranks that share memory have to meet first, so nothing can be sent before the end.
        ways["all-to-all layer by layer"] = by_layer
    if HalvingDoubling.fits(nodes_by_node):
        ways["halving and doubling"] = HalvingDoubling
    row_bytes = subtotals.num_parameters // place.num_parts * subtotals.dtype.itemsize
    if sum(map(len, nodes_by_node)) * row_bytes <= _SMALL_BYTES:
        ways["direct"] = direct
    return ways
