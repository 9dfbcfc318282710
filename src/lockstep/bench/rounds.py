"""Rounds: whoever is compared takes turns, so that a slow minute of the machine hits all alike."""

from collections.abc import Callable, Mapping
from typing import TypeVar

Result = TypeVar("Result")

# What a contestant's turn should take, in seconds, where its number of steps is not given.
TURN_S = 0.4


def take_turns(
    contestants: Mapping[str, Callable[[], Result]], num_rounds: int
) -> dict[str, list[Result]]:
    """Let all have their turn in every round: A B C, A B C, ...

    Parameters
    ----------
    contestants : mapping of str to callable
        What is measured, by name.
    num_rounds : int
        How often.

    Returns
    -------
    dict of str to list
        What each has returned, by round.
    """
    results: dict[str, list[Result]] = {name: [] for name in contestants}
    for _ in range(num_rounds):
        for name, turn in contestants.items():
            results[name].append(turn())
    return results
