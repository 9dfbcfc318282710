"""What the rest of Lockstep knows of the other ranks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from numpy.typing import DTypeLike

from lockstep.arrays import Array


@dataclass(frozen=True)
class Doing:
    """What this rank does at the moment.

    Parameters
    ----------
    step : int
        Steps done.
    phase : str
        Of the training.
    is_step : bool
        Whether the phase is part of a step.
    is_waiting : bool
        Whether in this phase the rank waits for others.
    """

    step: int
    phase: str
    is_step: bool = False
    is_waiting: bool = False


class Reduction(Protocol):
    """Adds the gradients of all virtual ranks.

    For every step: write a parameter group's gradients to its entry of `leaves` and call `add`;
    when all groups are added, `reduce_scatter`, change the rank's own parts of what it returns,
    and `all_gather`. Ranks that each add up their own parts, rather than all of the vector, can
    so share the optimizer's work as well.

    References
    ----------
    S. Rajbhandari, J. Rasley, O. Ruwase, Y. He, "ZeRO: Memory Optimizations Toward Training
    Trillion Parameter Models", SC20 (2020), stage 1.
    """

    @property
    def name(self) -> str:
        """How it is carried out, in a few words."""

    @property
    def own(self) -> Sequence[slice]:
        """The parts of the vector that this rank adds up; together, all ranks' cover it."""

    @property
    def leaves(self) -> Sequence[Array]:
        """Per parameter group (block size, *shape): where this step's gradients are written.

        Groups may share memory.
        """

    def add(self, group: int) -> None:
        """Take a parameter group's leaves, which are complete; they may be overwritten."""

    def reduce_scatter(self) -> Array:
        """Return the sum over all virtual ranks, (num_parameters,), complete in `own` only.

        The rank may write to its own parts. Every rank must call it.
        """

    def all_gather(self) -> Array:
        """Return the whole vector, (num_parameters,), the same on every rank.

        Read only, and valid until `reduce_scatter` is called again. Every rank must call it.
        """

    def close(self) -> None:
        """Give back what is shared with other ranks. Every rank must call it."""


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

    def gather_to_root(self, values: Array) -> list[Array]:
        """Return every rank's values, in rank order, on the root; nothing elsewhere.

        Parameters
        ----------
        values : ndarray (num_values,)
            Equal in type on all ranks; their number may differ.
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
        rehearse: Callable[[Reduction], None],
    ) -> Reduction:
        """Return what adds up gradients: tested, and the fastest where there is a choice.

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
        rehearse : callable
            Does with a reduction what a training step does, so that its time can be taken.

        Raises
        ------
        SharedFailureError
            When the sum of known numbers comes out wrong.
        """

    def first_ranks(self, num_ranks: int) -> "Communicator | None":
        """Return a communicator of the first so many ranks; None for those not among them."""

    def group(self, num_ranks: int) -> "Communicator | None":
        """Return this rank's group of so many neighbours; None for those that are left over.

        Parameters
        ----------
        num_ranks : int
            Ranks 0 to num_ranks - 1 are a group, and so on.
        """

    def meet(self) -> None:
        """Wait for all ranks, without keeping a core busy."""

    def watch_over(
        self, look: Callable[[], Doing] | None, timeout_s: float = 0.0, remedy: str = ""
    ) -> None:
        """Have the other ranks told what this one is doing, so that they notice when it hangs.

        Parameters
        ----------
        look : callable or None
            Called by another thread, again and again. None: nothing that it could hang in.
        timeout_s : float
            How long a rank may be silent or stand still; 0: for ever.
        remedy : str
            What to do when a rank is lost, for the message.
        """

    @property
    def can_lose_ranks(self) -> bool:
        """Whether the others can go on when a rank has died."""

    def survivors(self, error: Exception) -> "Communicator | None":
        """Return the ranks that are left when one has died; all of them must call it.

        Parameters
        ----------
        error : Exception
            What a collective call has failed with. With any other error than the loss of a
            rank, or where ranks can't be lost, there is nobody to go on with: None.
        """

    def settle(self) -> None:
        """Make sure that all ranks have come so far; otherwise it fails on all of them alike.

        Where ranks can't be lost, it does nothing.
        """
