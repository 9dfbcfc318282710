"""Counter-based random streams: every draw is a pure function of what it is for.

Nothing here has a state that could be lost: a stream is addressed by the run's seed, its
purpose, an index (an epoch or a step) and a virtual rank, so any rank can make any stream at
any time, and a resumed run needs no saved generator.

References
----------
J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel Random Numbers: As Easy as
1, 2, 3", SC11 (2011): Philox-4x64, whose 256-bit counter is the address used here.
"""

from enum import IntEnum

import numpy as np


class Purpose(IntEnum):
    """What a stream is drawn for; streams of different purposes never overlap."""

    INITIAL_WEIGHTS = 1
    SAMPLE_ORDER = 2
    SPLIT = 3
    SHUFFLE = 4
    BLOCK_ORDER = 5
    DROPOUT = 6
    AUGMENTATION = 7
    SEARCH = 8


def philox(
    seed: int, purpose: Purpose, index: int = 0, virtual_rank: int = 0, part: int = 0
) -> np.random.Philox:
    """Return the bit generator at one address.

    Parameters
    ----------
    seed : int
        The run's seed, 0 <= seed < 2**64.
    purpose : Purpose
        What the numbers are for.
    index : int
        The epoch, step or layer.
    virtual_rank : int
        The virtual rank that draws.
    part : int
        Which part of its numbers, where they are drawn in parts.

    Returns
    -------
    numpy.random.Philox
        Keyed by (seed, purpose). Its counter starts at (0, part, index, virtual_rank), least
        significant word first, so a stream has 2**64 counter steps of
        four draws each before it meets the next one.
    """
    key = np.array([seed, purpose], dtype=np.uint64)
    counter = np.array([0, part, index, virtual_rank], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter)
