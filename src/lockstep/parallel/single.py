"""The communicator of a single process: no MPI is loaded."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import DTypeLike

from lockstep.arrays import Array
from lockstep.parallel.communicator import Doing, Reduction
from lockstep.parallel.subtotals import Subtotals


class SingleProcess:
    """A world of one rank; see `Communicator`."""

    rank = 0
    world_size = 1
    library: str | None = None
    can_lose_ranks = False

    def gather_rows(self, rows: Array) -> Array:
        """Return the rows."""
        return rows

    def gather_to_root(self, values: Array) -> list[Array]:
        """Return the values."""
        return [values]

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
        rehearse: Callable[[Reduction], None],
    ) -> "LocalReduction":
        """Return the tree within this process, which is the whole tree."""
        del kind, rehearse
        return LocalReduction(num_virtual_ranks, shapes, dtype)

    def first_ranks(self, num_ranks: int) -> "SingleProcess | None":
        """Return this process."""
        return self if num_ranks else None

    def group(self, num_ranks: int) -> "SingleProcess | None":
        """Return this process."""
        return self if num_ranks == 1 else None

    def meet(self) -> None:
        """Nobody else is there."""

    def watch_over(
        self, look: Callable[[], Doing] | None, timeout_s: float = 0.0, remedy: str = ""
    ) -> None:
        """Nobody else is there."""

    def survivors(self, error: Exception) -> None:
        """Nobody else is there."""

    def settle(self) -> None:
        """Nobody else is there."""


class LocalReduction:
    """All virtual ranks in one process; see `Reduction`."""

    name = "one process"

    def __init__(
        self, num_virtual_ranks: int, shapes: Sequence[tuple[int, ...]], dtype: DTypeLike
    ) -> None:
        self._subtotals = Subtotals(range(num_virtual_ranks), num_virtual_ranks, shapes, dtype)
        self._totals = np.empty((1, self._subtotals.num_parameters), dtype)
        self.leaves = self._subtotals.leaves(self._totals)
        self.own = [slice(0, self._subtotals.num_parameters)]

    def add(self, group: int) -> None:
        """Add up one parameter group."""
        self._subtotals.add(group, self.leaves[group], self._totals)

    def reduce_scatter(self) -> Array:
        """Return the sum: all of it is this rank's own."""
        total: Array = self._totals[0]
        return total

    def all_gather(self) -> Array:
        """Return what has become of the sum."""
        total: Array = self._totals[0]
        return total

    def close(self) -> None:
        """Nothing is shared."""
