"""The ordered sum: the canonical tree over all virtual ranks, whatever rank holds them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lockstep.arrays import Array
from lockstep.parallel.exchange import Exchange, slices
from lockstep.parallel.subtotals import Subtotals
from lockstep.parallel.tree import Node, add_rows, additions, covering_nodes


class Memory(Protocol):
    """What the ranks of one node of the cluster share; of a rank on its own, plain memory.

    Attributes
    ----------
    rows : ndarray (num_rows, length)
        One per subtotal of the node's ranks, in rank order, and a last one for the sum.
    """

    rows: Array

    def meet(self) -> None:
        """Wait for the node's ranks. What they wrote before, all of them can read after."""

    def free(self) -> None:
        """Give the memory back; all ranks of the node must call it."""


@dataclass(frozen=True)
class Place:
    """Where a rank stands among the nodes of a cluster.

    Parameters
    ----------
    blocks_by_node : list of list of range
        The virtual ranks of each rank of each node.
    node, local_rank : int
        Which of them this rank is.
    num_virtual_ranks : int
        V.
    """

    blocks_by_node: list[list[range]]
    node: int
    local_rank: int
    num_virtual_ranks: int

    @property
    def num_parts(self) -> int:
        """Parts of the vector: each node has a rank for each of them."""
        return min(map(len, self.blocks_by_node))

    @property
    def row_nodes(self) -> list[Node]:
        """What of the tree the rows of this node's memory hold."""
        return [
            node
            for leaves in self.blocks_by_node[self.node]
            for node in covering_nodes(leaves, self.num_virtual_ranks)
        ]

    @property
    def first_own_row(self) -> int:
        """The first row of this rank."""
        before = self.blocks_by_node[self.node][: self.local_rank]
        return sum(len(covering_nodes(leaves, self.num_virtual_ranks)) for leaves in before)

    @property
    def nodes_by_node(self) -> list[list[Node]]:
        """The subtotals that the ranks of each node can add up together."""
        return [
            covering_nodes((leaf for leaves in blocks for leaf in leaves), self.num_virtual_ranks)
            for blocks in self.blocks_by_node
        ]


# Makes the exchange between the nodes from the rows of one part, and where its sum belongs.
MakeExchange = Callable[[Sequence[Array], Array], Exchange]


class OrderedReduction:
    """The sum in the order of the canonical tree; see `Reduction`.

    The ranks of a node write their subtotals into memory that they share. Then each adds a part
    of its own of all of them, in place, and if there are more nodes, exchanges what has come
    out with the ranks that have the same part on the other nodes. All read the sum from the
    shared memory.

    Parameters
    ----------
    name : str
        How it is carried out.
    subtotals : Subtotals
        This rank's.
    place : Place
        Where it stands.
    memory : Memory
        With a row for each of the node's subtotals and one for the sum.
    make_exchange : callable, optional
        Makes the exchange between nodes; None where there is but one.

    References
    ----------
    T. Hoefler et al., "MPI + MPI: a new hybrid approach to parallel programming with MPI plus
    shared memory", Computing 95 (2013).
    """

    def __init__(
        self,
        name: str,
        subtotals: Subtotals,
        place: Place,
        memory: Memory,
        make_exchange: MakeExchange | None,
    ) -> None:
        self.name = name
        self._subtotals = subtotals
        self._memory = memory
        self._is_alone = len(place.blocks_by_node[place.node]) == 1
        *rows, total = memory.rows
        self._total: Array = total
        own_rows = slice(place.first_own_row, place.first_own_row + len(subtotals.nodes))
        self._own_rows = memory.rows[own_rows]
        self.leaves = subtotals.leaves(self._own_rows)

        parts = slices(subtotals.num_parameters, place.num_parts)
        # A rank beyond the parts, on a node with more ranks than another has, adds nothing.
        has_part = place.local_rank < place.num_parts
        self._part = parts[place.local_rank] if has_part else slice(0, 0)
        self._rows = [row[self._part] for row in rows]
        self._sums = self._sums_within_node(place)
        self._exchange = None
        self.own = [self._part] if has_part else []
        if make_exchange is not None and has_part:
            outgoing = [self._rows[target] for _, target in self._sums]
            self._exchange = make_exchange(outgoing, self._total[self._part])
            self.own = [_shifted(own, self._part.start) for own in self._exchange.own]

    def _sums_within_node(self, place: Place) -> list[tuple[list[tuple[int, int]], int]]:
        """Return the additions of each sum that the node's rows make, and its row."""
        row_nodes = place.row_nodes
        starts = {node.start: index for index, node in enumerate(row_nodes)}
        return [
            (additions(node, row_nodes), starts[node.start])
            for node in place.nodes_by_node[place.node]
        ]

    def add(self, group: int) -> None:
        """Add up one parameter group of the rank's own virtual ranks."""
        self._subtotals.add(group, self.leaves[group], self._own_rows)
        if self._exchange is not None and self._is_alone:
            self._exchange.progress(self._subtotals.slices[group])

    def reduce_scatter(self) -> Array:
        """Add up the rank's own parts."""
        self._memory.meet()
        for pairs, target in self._sums:
            if self._exchange is None:
                add_rows(self._rows, pairs, self._total[self._part])
            elif pairs:
                add_rows(self._rows, pairs, self._rows[target])
        if self._exchange is not None:
            self._exchange.reduce_scatter()
        return self._total

    def all_gather(self) -> Array:
        """Wait for the parts of the others."""
        if self._exchange is not None:
            self._exchange.all_gather()
        self._memory.meet()
        return self._total

    def close(self) -> None:
        """Give the shared memory back."""
        self._memory.free()


class OwnMemory:
    """Memory of a rank that shares none; see `Memory`."""

    def __init__(self, num_rows: int, length: int, dtype: np.dtype[np.generic]) -> None:
        self.rows: Array = np.empty((num_rows, length), dtype)

    def meet(self) -> None:
        """Nobody else is there."""

    def free(self) -> None:
        """Leave it to Python."""


def _shifted(part: slice, start: int) -> slice:
    return slice(part.start + start, part.stop + start)
