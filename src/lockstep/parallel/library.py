"""The MPI library's own sum."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from lockstep.arrays import Array
from lockstep.parallel.exchange import Request
from lockstep.parallel.subtotals import Subtotals


class AllReduce(Protocol):
    """What the library is asked to do."""

    def start_all_reduce(self, values: Array) -> Request:
        """Begin to replace values by their sum over all ranks, in whatever order."""

    def wait(self, requests: Sequence[Request]) -> None:
        """Wait until all are done."""


class LibraryReduction:
    """The MPI library's own sum over the ranks; see `Reduction`.

    Equal on all ranks and up to rounding the same for any number of them, but not bit for bit.

    Parameters
    ----------
    name : str
        How it is carried out.
    library : AllReduce
        The library.
    subtotals : Subtotals
        This rank's.
    by_group : bool
        Whether each parameter group is a bucket that is sent as soon as it is complete, while
        the backward pass goes on; otherwise the whole vector is one.
    """

    def __init__(
        self, name: str, library: AllReduce, subtotals: Subtotals, *, by_group: bool
    ) -> None:
        self.name = name
        self._library = library
        self._subtotals = subtotals
        self._by_group = by_group
        self._requests: list[Request] = []
        self._totals = np.empty((len(subtotals.nodes), subtotals.num_parameters), subtotals.dtype)
        self.leaves = subtotals.leaves(self._totals)
        self.own = [slice(0, subtotals.num_parameters)]

    def add(self, group: int) -> None:
        """Add up one parameter group of the rank's own virtual ranks."""
        self._subtotals.add(group, self.leaves[group], self._totals)
        part = self._subtotals.slices[group]
        for other in self._totals[1:]:
            np.add(self._totals[0, part], other[part], out=self._totals[0, part])
        if self._by_group:
            for request in self._requests:
                # MPI libraries only work on messages while they are called.
                request.Test()
            self._requests.append(self._library.start_all_reduce(self._totals[0, part]))

    def reduce_scatter(self) -> Array:
        """Return the whole sum: each rank has all of it."""
        if not self._by_group:
            self._requests.append(self._library.start_all_reduce(self._totals[0]))
        self._library.wait(self._requests)
        self._requests.clear()
        total: Array = self._totals[0]
        return total

    def all_gather(self) -> Array:
        """Return what the rank has made of the sum."""
        total: Array = self._totals[0]
        return total

    def close(self) -> None:
        """Nothing is shared."""
