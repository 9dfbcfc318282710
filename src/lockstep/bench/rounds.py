"""Rounds: whoever is compared takes turns, so that a slow minute of the machine hits all alike."""

from collections.abc import Callable, Mapping
from typing import TypeVar

Result = TypeVar("Result")
# Trains so many steps and returns the mean seconds of one.
Contestant = Callable[[int], float]

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


def warm_up(contestant: Contestant, num_steps: int) -> int:
    """Compile what is to be compiled, fill the caches, and return the steps of a round.

    Parameters
    ----------
    contestant : callable
        Some compile a loop of just so many steps, so it is called with all numbers that count.
    num_steps : int
        Those of a round; 0 for as many as fill a turn.
    """
    if num_steps:
        contestant(num_steps)
        return num_steps
    num_steps = 1
    contestant(num_steps)
    # Twice, for what a call takes beside its steps makes one step look long.
    for _ in range(2):
        before, num_steps = num_steps, max(1, round(TURN_S / contestant(num_steps)))
        if num_steps == before:
            break
        contestant(num_steps)
    return num_steps
