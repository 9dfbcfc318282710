"""The communicator of a single process: no MPI is loaded."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike

from lockstep.arrays import Array
from lockstep.parallel.subtotals import Subtotals


class SingleProcess:
    """A world of one rank; see `Communicator`."""

    rank = 0
    world_size = 1
    library: str | None = None

    def gather_rows(self, rows: Array) -> Array:
        """Return the rows."""
        return rows

    def sum_counts(self, counts: Array) -> Array:
        """Return the counts."""
        return counts

    def gather_texts(self, text: str) -> list[str]:
        """Return the text."""
        return [text]

    def reduction(
        self,
        kind: str,
        num_virtual_ranks: int,
        shapes: Sequence[tuple[int, ...]],
        dtype: DTypeLike,
    ) -> "LocalReduction":
        """Return the tree within this process, which is the whole tree."""
        del kind
        return LocalReduction(num_virtual_ranks, shapes, dtype)


class LocalReduction:
    """All virtual ranks in one process; see `Reduction`."""

    def __init__(
        self, num_virtual_ranks: int, shapes: Sequence[tuple[int, ...]], dtype: DTypeLike
    ) -> None:
        self._subtotals = Subtotals(range(num_virtual_ranks), num_virtual_ranks, shapes, dtype)
        self._totals = np.empty((1, self._subtotals.num_parameters), dtype)
        self.leaves = self._subtotals.leaves(self._totals)

    def add(self, group: int) -> None:
        """Add up one parameter group."""
        self._subtotals.add(group, self.leaves[group], self._totals)

    def total(self) -> Array:
        """Return the sum."""
        total: Array = self._totals[0]
        return total
