"""Which classes to look at first."""

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

# Up to here a reader finds every class at a glance, in the order of the data set.
MANY_CLASSES = 30


def worst_first(per_class: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Sort the scores of classes by F1, the lowest first.

    Parameters
    ----------
    per_class : sequence of mapping
        The scores of each class.

    Returns
    -------
    list of mapping
        The same; classes without an F1, those that never occurred, are last.
    """
    return sorted(per_class, key=lambda line: inf if line.get("f1") is None else line["f1"])
