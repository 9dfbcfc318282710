"""Choosing between reductions by measurement, and testing the one that is chosen."""

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter

import numpy as np

from lockstep.arrays import Array
from lockstep.errors import SharedFailureError
from lockstep.parallel.communicator import Communicator, Reduction
from lockstep.parallel.tree import block, tree_sum

_NUM_TRIALS = 3
# Different numbers that the self-test adds.
_NUM_SUMMANDS = 32


def fastest(
    candidates: Sequence[Callable[[], Reduction]],
    communicator: Communicator,
    rehearse: Callable[[Reduction], None],
) -> Reduction:
    """Make the candidate whose rehearsals take the least time; collective.

    Parameters
    ----------
    candidates : sequence of callable
        Each makes a reduction.
    communicator : Communicator
        The ranks that use it.
    rehearse : callable
        Does with a reduction what a training step does.

    Returns
    -------
    Reduction
        The same kind on all ranks. The slowest rank's time counts.
    """
    if len(candidates) == 1:
        return candidates[0]()
    own_s = np.array([[_time_s(make, rehearse) for make in candidates]])
    slowest_s = communicator.gather_rows(own_s).max(axis=0)
    return candidates[int(slowest_s.argmin())]()


def _time_s(make: Callable[[], Reduction], rehearse: Callable[[Reduction], None]) -> float:
    """Return the median seconds of a rehearsal, after one to warm up."""
    reduction = make()
    rehearse(reduction)
    times_s = []
    for _ in range(_NUM_TRIALS):
        start_s = perf_counter()
        rehearse(reduction)
        times_s.append(perf_counter() - start_s)
    reduction.close()
    return median(times_s)


def self_test(
    reduction: Reduction, communicator: Communicator, num_virtual_ranks: int, *, in_order: bool
) -> None:
    """Let the reduction add known numbers, and compare every one of the sums; collective.

    The leaves of a virtual rank are a few numbers, repeated, times powers of two, which scale a
    sum without changing its rounding. So a few sums over the tree tell what all of them must be,
    to the last bit, and elements that have gone to the wrong place are noticed too.

    Parameters
    ----------
    reduction : Reduction
        Between two steps.
    communicator : Communicator
        Its ranks.
    num_virtual_ranks : int
        V.
    in_order : bool
        Whether the order of the tree is promised; otherwise, up to rounding.

    Raises
    ------
    SharedFailureError
        On all ranks, naming those where a sum was wrong.
    """
    leaves = reduction.leaves
    dtype = leaves[0].dtype
    # Irregular numbers of either sign: in another order, some of their sums round differently.
    seeds = np.arange(1, _NUM_SUMMANDS * num_virtual_ranks + 1).reshape(num_virtual_ranks, -1)
    summands = np.sin(seeds).astype(dtype)
    own = block(communicator.rank, communicator.world_size, num_virtual_ranks)
    start = sum(leaf[0].size for leaf in leaves)
    for group in reversed(range(len(leaves))):
        leaf = leaves[group]
        start -= leaf[0].size
        for row, virtual_rank in zip(leaf, own, strict=True):
            row[...] = _spread(summands[virtual_rank], start, row.size).reshape(row.shape)
        reduction.add(group)
    reduction.reduce_scatter()
    total = reduction.all_gather()
    expected = _spread(tree_sum(summands), 0, total.size)
    tolerance = np.zeros_like(expected)
    if not in_order:
        rounding = np.finfo(dtype).eps * num_virtual_ranks * np.abs(summands).sum(axis=0)
        tolerance = _spread(rounding, 0, total.size)
    # Not a number is neither within the tolerance nor beyond it.
    num_wrong = total.size - np.count_nonzero(np.abs(total - expected) <= tolerance)
    wrong_by_rank = communicator.gather_rows(np.array([num_wrong]))
    if wrong_by_rank.any():
        ranks = ", ".join(map(str, np.flatnonzero(wrong_by_rank)))
        raise SharedFailureError(
            f"The reduction ({reduction.name}) has failed its self-test: of {total.size} sums of "
            f"known numbers, {wrong_by_rank.max()} were wrong, on rank {ranks}. The MPI library "
            f"({communicator.library}) does not add correctly here; try another version of it, or "
            "another --reduction."
        )


def _spread(numbers: Array, start: int, length: int) -> Array:
    """Repeat a few numbers over the elements from `start` on, scaled by powers of two.

    The exponents are irregular, so that no short shift goes unnoticed.
    """
    index = np.arange(start, start + length, dtype=np.int64)
    exponents = (index * 2654435761 >> 12) % 16
    spread: Array = np.ldexp(numbers[index % len(numbers)], exponents.astype(np.int32))
    return spread
