"""What the benchmarks on several numbers of ranks share."""

from collections.abc import Sequence

import numpy as np

from lockstep.arrays import Array
from lockstep.errors import SharedError
from lockstep.parallel.communicator import Communicator


def check_ranks(communicator: Communicator, rank_counts: Sequence[int]) -> None:
    """See that there are enough ranks.

    Parameters
    ----------
    communicator : Communicator
        All ranks.
    rank_counts : sequence of int
        On how many of them to measure.

    Raises
    ------
    SharedError
        When there are too few.
    """
    if max(rank_counts) > communicator.world_size:
        raise SharedError(
            f"--ranks {','.join(map(str, rank_counts))} needs {max(rank_counts)} ranks, but the "
            f"launcher has started {communicator.world_size}. Start more, or ask for fewer."
        )


def gather_figures(group: Communicator, own: Sequence[float]) -> Array:
    """Return what each rank has measured, on every rank; collective.

    Parameters
    ----------
    group : Communicator
        The ranks that have measured.
    own : sequence of float
        This rank's figures; as many on all ranks.

    Returns
    -------
    ndarray of float64 (num_ranks, num_figures)
        By rank.
    """
    # Whoever is early sleeps, rather than take a core from those who are not.
    group.meet()
    return group.gather_rows(np.array([own]))


def slowest_s(group: Communicator, own_s: float) -> float:
    """Return the slowest rank's seconds, on every rank; collective."""
    return float(gather_figures(group, [own_s]).max())
