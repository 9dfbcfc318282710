"""What the rest of Lockstep knows of the other ranks."""

from collections.abc import Sequence
from typing import Protocol

from numpy.typing import DTypeLike

from lockstep.arrays import Array


class Reduction(Protocol):
    """Adds the gradients of all virtual ranks.

    For every step: write a parameter group's gradients to its entry of `leaves`, call `add`,
    and when all groups are added, `total`.
    """

    @property
    def leaves(self) -> Sequence[Array]:
        """Per parameter group (block size, *shape): where this step's gradients are written.

        Groups may share memory, and the entries change after each call of `total`.
        """

    def add(self, group: int) -> None:
        """Take a parameter group's leaves, which are complete; they may be overwritten."""

    def total(self) -> Array:
        """Return the sum over all virtual ranks, (num_parameters,), the same on every rank.

        Read only, and valid until gradients are written again. Every rank must call it.
        """


class Communicator(Protocol):
    """A group of ranks.

    Everything that returns a value is collective: all ranks must call it, in the same order.
    """

    @property
    def rank(self) -> int:
        """Which of the ranks this process is; 0 is the root."""

    @property
    def world_size(self) -> int:
        """How many ranks there are."""

    @property
    def library(self) -> str | None:
        """Name and version of the MPI library, if there is one."""

    def gather_rows(self, rows: Array) -> Array:
        """Return the rows of all ranks, in rank order, on every rank.

        Parameters
        ----------
        rows : ndarray (num_rows, ...)
            Equal in shape and type on all ranks, apart from `num_rows`.
        """

    def sum_counts(self, counts: Array) -> Array:
        """Return the sum of integer arrays over all ranks, on every rank."""

    def gather_texts(self, text: str) -> list[str]:
        """Return every rank's text, in rank order, on every rank."""

    def reduction(
        self,
        kind: str,
        num_virtual_ranks: int,
        shapes: Sequence[tuple[int, ...]],
        dtype: DTypeLike,
    ) -> Reduction:
        """Return what adds up gradients.

        Parameters
        ----------
        kind : str
            "ordered": in the order of the canonical tree, the same bits for any world size.
            "mpi": a rank's own in that order, the ranks' sums by the MPI library.
        num_virtual_ranks : int
            V, at least the world size.
        shapes : sequence of tuple of int
            Of the parameter groups.
        dtype : dtype
            float32 or float64.
        """
