"""Ranks that leave each other alone: what a training would take without any reduction."""

from collections.abc import Callable, Sequence

from numpy.typing import DTypeLike

from lockstep.arrays import Array
from lockstep.parallel.communicator import Communicator, Doing, Reduction
from lockstep.parallel.single import LocalReduction
from lockstep.parallel.tree import block


class Wrapper:
    """Passes everything on to a communicator; see `Communicator`.

    For what changes a part of it.

    Parameters
    ----------
    communicator : Communicator
        The ranks.
    """

    def __init__(self, communicator: Communicator) -> None:
        self._communicator = communicator
        self.rank = communicator.rank
        self.world_size = communicator.world_size
        self.library = communicator.library
        self.can_lose_ranks = communicator.can_lose_ranks

    def gather_rows(self, rows: Array) -> Array:
        """Pass it on."""
        return self._communicator.gather_rows(rows)

    def gather_to_root(self, values: Array) -> list[Array]:
        """Pass it on."""
        return self._communicator.gather_to_root(values)

    def sum_counts(self, counts: Array) -> Array:
        """Pass it on."""
        return self._communicator.sum_counts(counts)

    def gather_texts(self, text: str) -> list[str]:
        """Pass it on."""
        return self._communicator.gather_texts(text)

    def first_ranks(self, num_ranks: int) -> Communicator | None:
        """Pass it on."""
        return self._communicator.first_ranks(num_ranks)

    def group(self, num_ranks: int) -> Communicator | None:
        """Pass it on."""
        return self._communicator.group(num_ranks)

    def meet(self) -> None:
        """Pass it on."""
        self._communicator.meet()

    def watch_over(
        self, look: Callable[[], Doing] | None, timeout_s: float = 0.0, remedy: str = ""
    ) -> None:
        """Pass it on."""
        self._communicator.watch_over(look, timeout_s, remedy)

    def survivors(self, error: Exception) -> Communicator | None:
        """Pass it on."""
        return self._communicator.survivors(error)

    def settle(self) -> None:
        """Pass it on."""
        self._communicator.settle()

    def reduction(
        self,
        kind: str,
        num_virtual_ranks: int,
        shapes: Sequence[tuple[int, ...]],
        dtype: DTypeLike,
        rehearse: Callable[[Reduction], None],
    ) -> Reduction:
        """Pass it on."""
        return self._communicator.reduction(kind, num_virtual_ranks, shapes, dtype, rehearse)


class Apart(Wrapper):
    """The ranks of a communicator, each of which adds up its own gradients only.

    They still share the data and find each other outside of the steps; see `Communicator`. Their
    replicas drift apart, so nobody may compare them.
    """

    def first_ranks(self, num_ranks: int) -> "Apart | None":
        """Return the first ranks, apart as well."""
        group = self._communicator.first_ranks(num_ranks)
        return None if group is None else Apart(group)

    def reduction(
        self,
        kind: str,
        num_virtual_ranks: int,
        shapes: Sequence[tuple[int, ...]],
        dtype: DTypeLike,
        rehearse: Callable[[Reduction], None],
    ) -> LocalReduction:
        """Return the sum over this rank's own virtual ranks."""
        del kind, rehearse
        own = block(self.rank, self.world_size, num_virtual_ranks)
        return LocalReduction(len(own), shapes, dtype)
