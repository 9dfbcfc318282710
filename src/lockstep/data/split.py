"""Which rows are for training, validation and test, and in what order training rows are stored.

Everything follows from raw Philox draws and stable sorts, which give the same on every machine
and with every NumPy version.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import UserError
from lockstep.streams import Purpose, philox

DEFAULT_SHARE = 0.1


def num_rows(wanted: float | None, total: int, split: str) -> int:
    """Return the size of a split.

    Parameters
    ----------
    wanted : float or None
        Below 1 the share of all rows, else their number; None for the usual 10 percent.
    total : int
        The number of rows to be split.
    split : str
        The split's name, for messages.

    Raises
    ------
    UserError
        When the size is no size, or a share of the rows comes to nothing.
    """
    if wanted is None:
        wanted = DEFAULT_SHARE
    if not wanted >= 0 or (wanted >= 1 and wanted != int(wanted)):
        raise UserError(
            f"--{split} {wanted} is no size: give a share below 1, such as 0.1, or a number of "
            "rows, such as 1000."
        )
    if wanted >= 1 or wanted == 0:
        return int(wanted)
    rows = int(wanted * total + 0.5)
    if rows == 0:
        raise UserError(
            f"{split} would be empty: {wanted:g} of {total} rows is less than one. "
            f"Give more rows, or --{split} 0 to go without."
        )
    return rows


def shuffled(total: int, seed: int, purpose: Purpose) -> NDArray[np.intp]:
    """Return the numbers 0 to `total` - 1 in random order.

    Parameters
    ----------
    total : int
        How many.
    seed : int
        0 <= seed < 2**64.
    purpose : Purpose
        What the order is for.

    Returns
    -------
    ndarray of intp, (total,)
    """
    # Raw draws stay the same between NumPy versions, Generator.permutation needn't.
    return np.argsort(philox(seed, purpose).random_raw(total), kind="stable")


def stratified(
    labels: NDArray[np.int32],
    class_names: Sequence[str],
    num_validation: int,
    num_test: int,
    seed: int,
) -> dict[str, NDArray[np.intp]]:
    """Split rows at random so that each class has the same share in every split.

    Sizes are exact. Classes get their proportional numbers, rounded by largest remainder, and
    each class keeps at least one row for training.

    Parameters
    ----------
    labels : ndarray of int32, (num_rows,)
        The class index of each row.
    class_names : sequence of str
        The classes, for messages.
    num_validation, num_test : int
        The sizes of two splits; the rest is for training.
    seed : int
        0 <= seed < 2**64.

    Returns
    -------
    dict of str to ndarray of intp
        The row numbers of "train", "validation" and "test", each ascending.

    Raises
    ------
    UserError
        When the rows don't suffice, or those of one class.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    _check_sizes(counts, class_names, num_validation, num_test)
    test = _allocate(counts, num_test)
    validation = _allocate(counts - test, num_validation)
    place = _random_place_within_class(labels, counts, seed)
    in_test = place < test[labels]
    in_validation = ~in_test & (place < (test + validation)[labels])
    return {
        "train": np.flatnonzero(~in_test & ~in_validation),
        "validation": np.flatnonzero(in_validation),
        "test": np.flatnonzero(in_test),
    }


def _check_sizes(
    counts: NDArray[np.intp], class_names: Sequence[str], num_validation: int, num_test: int
) -> None:
    num_splits = 1 + (num_validation > 0) + (num_test > 0)
    smallest = int(counts.argmin())
    if counts[smallest] < num_splits:
        raise UserError(
            f"Class {class_names[smallest]!r} has too few rows to be split: {counts[smallest]}, "
            f"and each of the {num_splits} splits should have one. Give it more rows, leave the "
            "class out, or check that the labels are the right column."
        )
    total = int(counts.sum())
    room = total - len(class_names)
    if num_validation + num_test > room:
        raise UserError(
            f"{num_validation} rows for validation and {num_test} for test are too many: there "
            f"are {total} rows, and each of the {len(class_names)} classes needs one for "
            f"training, so together they can be {room} at most."
        )


def _allocate(available: NDArray[np.intp], wanted: int) -> NDArray[np.intp]:
    """Share `wanted` rows among classes by what they have, leaving one of each."""
    most = available - 1
    total = int(available.sum())
    given = np.minimum(available * wanted // total, most)
    by_remainder = np.argsort(-(available * wanted % total), kind="stable")
    while (missing := wanted - int(given.sum())) > 0:
        with_room = by_remainder[given[by_remainder] < most[by_remainder]]
        given[with_room[:missing]] += 1
    return given


def _random_place_within_class(
    labels: NDArray[np.int32], counts: NDArray[np.intp], seed: int
) -> NDArray[np.intp]:
    """Return each row's place in a random order of its class, (num_rows,), from 0."""
    order = shuffled(len(labels), seed, Purpose.SPLIT)
    by_class = order[np.argsort(labels[order], kind="stable")]
    first_of_class = np.cumsum(counts) - counts
    place = np.empty(len(labels), dtype=np.intp)
    place[by_class] = np.arange(len(labels)) - first_of_class[labels[by_class]]
    return place
