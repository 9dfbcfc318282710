"""The communicator of MPI ranks. Only this module imports mpi4py."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from shutil import disk_usage

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike

from lockstep.arrays import Array
from lockstep.parallel.communicator import Reduction
from lockstep.parallel.subtotals import Subtotals
from lockstep.parallel.tree import Node, additions, block, covering_nodes

# Where Linux keeps it. A window that doesn't fit would end the job with a bus error.
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - nothing is written there by name


class MPIRanks:
    """The ranks of an MPI communicator; see `Communicator`.

    Parameters
    ----------
    comm : MPI.Comm
        Its ranks; by default all of them.
    """

    def __init__(self, comm: MPI.Intracomm = MPI.COMM_WORLD) -> None:
        self._comm = comm
        self.rank = comm.Get_rank()
        self.world_size = comm.Get_size()
        self.library: str | None = " ".join(
            MPI.Get_library_version().splitlines()[0].strip("\0").split()
        )

    def gather_rows(self, rows: Array) -> Array:
        """Gather rows by Allgatherv."""
        rows = np.ascontiguousarray(rows)
        num_rows = np.empty(self.world_size, np.int64)
        self._comm.Allgather(np.array([len(rows)], np.int64), num_rows)
        gathered = np.empty((num_rows.sum(), *rows.shape[1:]), rows.dtype)
        self._comm.Allgatherv(rows, (gathered, num_rows * prod(rows.shape[1:])))
        return gathered

    def sum_counts(self, counts: Array) -> Array:
        """Add integers by Allreduce: integer sums are exact in any order."""
        total = np.empty_like(counts)
        self._comm.Allreduce(counts, total)
        return total

    def gather_texts(self, text: str) -> list[str]:
        """Gather texts as rows of UTF-8 bytes."""
        encoded = np.frombuffer(text.encode(), np.uint8)
        lengths = self.gather_rows(np.array([len(encoded)], np.int64))
        joined = self.gather_rows(encoded)
        return [part.tobytes().decode() for part in np.split(joined, np.cumsum(lengths)[:-1])]

    def reduction(
        self,
        kind: str,
        num_virtual_ranks: int,
        shapes: Sequence[tuple[int, ...]],
        dtype: DTypeLike,
    ) -> Reduction:
        """Choose by topology: a shared window within one node, messages between nodes.

        Messages too where the window would not fit into shared memory.
        """
        own = block(self.rank, self.world_size, num_virtual_ranks)
        subtotals = Subtotals(own, num_virtual_ranks, shapes, dtype)
        if kind == "mpi":
            return LibraryReduction(self._comm, subtotals)
        nodes_by_rank = [
            covering_nodes(block(rank, self.world_size, num_virtual_ranks), num_virtual_ranks)
            for rank in range(self.world_size)
        ]
        num_rows = sum(map(len, nodes_by_rank))
        window_bytes = 2 * num_rows * subtotals.num_parameters * subtotals.dtype.itemsize
        if self._on_one_node() and self._have_room(window_bytes):
            return WindowReduction(self._comm, subtotals, nodes_by_rank)
        return ExchangeReduction(self._comm, subtotals, nodes_by_rank)

    def abort(self, exit_code: int) -> None:
        """End all ranks by MPI_Abort."""
        self._comm.Abort(exit_code)

    def _have_room(self, num_bytes: int) -> bool:
        """Whether all ranks see that much free shared memory; containers often have little."""
        free = disk_usage(_SHARED_MEMORY).free if _SHARED_MEMORY.is_dir() else num_bytes
        least = np.array([free], np.int64)
        self._comm.Allreduce(MPI.IN_PLACE, least, op=MPI.MIN)
        return bool(least[0] >= num_bytes)

    def _on_one_node(self) -> bool:
        node = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
        neighbours = np.array([node.Get_size()], np.int64)
        node.Free()
        # The smallest node decides, so that all ranks choose alike.
        self._comm.Allreduce(MPI.IN_PLACE, neighbours, op=MPI.MIN)
        return bool(neighbours[0] == self.world_size)


class WindowReduction:
    """The ordered sum of ranks that share memory; see `Reduction`.

    All ranks write their subtotals into one MPI shared-memory window. Then each adds its own
    slice of all of them in tree order, in place, and all read the sum from the first row.

    There are two windows in turn, because a rank may still read the last step's sum while a
    faster one writes its next gradients. It can't be two steps behind: both have to meet in
    `total` in between.

    References
    ----------
    T. Hoefler et al., "MPI + MPI: a new hybrid approach to parallel programming with MPI plus
    shared memory", Computing 95 (2013).
    """

    def __init__(
        self, comm: MPI.Intracomm, subtotals: Subtotals, nodes_by_rank: Sequence[list[Node]]
    ) -> None:
        self._comm = comm
        self._subtotals = subtotals
        self._additions, num_rows = _additions_over(nodes_by_rank)
        first_row = sum(len(nodes) for nodes in nodes_by_rank[: comm.Get_rank()])
        own_rows = slice(first_row, first_row + len(subtotals.nodes))
        self._columns = _slices(subtotals.num_parameters, comm.Get_size())[comm.Get_rank()]
        self._windows = [self._allocate((num_rows, subtotals.num_parameters)) for _ in range(2)]
        self._rows = [rows for _, rows in self._windows]
        self._own = [rows[own_rows] for rows in self._rows]
        self._leaves = [subtotals.leaves(own) for own in self._own]
        self._turn = 0

    def _allocate(self, shape: tuple[int, int]) -> tuple[MPI.Win, Array]:
        dtype = self._subtotals.dtype
        num_bytes = prod(shape) * dtype.itemsize
        is_first = self._comm.Get_rank() == 0
        window = MPI.Win.Allocate_shared(
            num_bytes if is_first else 0, dtype.itemsize, comm=self._comm
        )
        # One passive epoch for the window's whole life; order comes from Sync and Barrier.
        window.Lock_all()
        memory, _ = window.Shared_query(0)
        # mpi4py's buffer has the buffer protocol, but its type stub can't say so before 3.12.
        return window, np.ndarray(shape, dtype, buffer=memory)  # type: ignore[arg-type]

    @property
    def leaves(self) -> Sequence[Array]:
        """Where this step's gradients are written."""
        return self._leaves[self._turn]

    def add(self, group: int) -> None:
        """Add up one parameter group of the rank's own virtual ranks."""
        self._subtotals.add(group, self.leaves[group], self._own[self._turn])

    def total(self) -> Array:
        """Return the sum, in shared memory."""
        window, rows = self._windows[self._turn]
        self._meet(window)
        for i, j in self._additions:
            np.add(rows[i, self._columns], rows[j, self._columns], out=rows[i, self._columns])
        self._meet(window)
        self._turn = 1 - self._turn
        total: Array = rows[0]
        return total

    def _meet(self, window: MPI.Win) -> None:
        window.Sync()
        self._comm.Barrier()
        window.Sync()


class ExchangeReduction:
    """The ordered sum of ranks on several nodes; see `Reduction`.

    Each rank sends every other one that rank's slice of its subtotals, adds its own slice of
    all of them in tree order, and the sums are gathered: as many bytes as a reduce-scatter and
    an all-gather, for any number of ranks.
    """

    def __init__(
        self, comm: MPI.Intracomm, subtotals: Subtotals, nodes_by_rank: Sequence[list[Node]]
    ) -> None:
        self._comm = comm
        self._subtotals = subtotals
        self._additions, num_rows = _additions_over(nodes_by_rank)
        self._slices = _slices(subtotals.num_parameters, comm.Get_size())
        lengths = np.array([where.stop - where.start for where in self._slices])
        rows_by_rank = np.array([len(nodes) for nodes in nodes_by_rank])
        own_length = lengths[comm.Get_rank()]
        self._totals = np.empty((len(subtotals.nodes), subtotals.num_parameters), subtotals.dtype)
        self._packed = np.empty(self._totals.size, subtotals.dtype)
        self._received = np.empty((num_rows, own_length), subtotals.dtype)
        self._sum = np.empty(subtotals.num_parameters, subtotals.dtype)
        self._send_counts = lengths * len(subtotals.nodes)
        self._receive_counts = rows_by_rank * own_length
        self._gather_counts = lengths
        self.leaves = subtotals.leaves(self._totals)

    def add(self, group: int) -> None:
        """Add up one parameter group of the rank's own virtual ranks."""
        self._subtotals.add(group, self.leaves[group], self._totals)

    def total(self) -> Array:
        """Return the sum."""
        np.concatenate([self._totals[:, where].ravel() for where in self._slices], out=self._packed)
        self._comm.Alltoallv(
            (self._packed, self._send_counts), (self._received, self._receive_counts)
        )
        for i, j in self._additions:
            np.add(self._received[i], self._received[j], out=self._received[i])
        self._comm.Allgatherv(self._received[0], (self._sum, self._gather_counts))
        return self._sum


class LibraryReduction:
    """The MPI library's own sum over the ranks; see `Reduction`.

    Equal on all ranks and up to rounding the same for any number of them, but not bit for bit.
    """

    def __init__(self, comm: MPI.Intracomm, subtotals: Subtotals) -> None:
        self._comm = comm
        self._subtotals = subtotals
        self._totals = np.empty((len(subtotals.nodes), subtotals.num_parameters), subtotals.dtype)
        self.leaves = subtotals.leaves(self._totals)

    def add(self, group: int) -> None:
        """Add up one parameter group of the rank's own virtual ranks."""
        self._subtotals.add(group, self.leaves[group], self._totals)

    def total(self) -> Array:
        """Return the sum."""
        own: Array = self._totals[0]
        for other in self._totals[1:]:
            np.add(own, other, out=own)
        self._comm.Allreduce(MPI.IN_PLACE, own)
        return own


def _additions_over(nodes_by_rank: Sequence[list[Node]]) -> tuple[list[tuple[int, int]], int]:
    """Return the additions of all ranks' subtotals, a row each in rank order, and their number."""
    nodes = [node for nodes in nodes_by_rank for node in nodes]
    return additions(Node(0, nodes[-1].stop), nodes), len(nodes)


def _slices(length: int, parts: int) -> list[slice]:
    return [slice(length * part // parts, length * (part + 1) // parts) for part in range(parts)]
