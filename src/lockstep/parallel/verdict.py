"""Failing together: what one rank finds wrong, all ranks learn."""

from collections.abc import Callable
from typing import TypeVar

from lockstep.errors import SharedError, UserError
from lockstep.parallel.communicator import Communicator

Result = TypeVar("Result")


def together(communicator: Communicator, task: Callable[[], Result]) -> Result:
    """Run a task on every rank and go on only if it went well on all of them.

    Parameters
    ----------
    communicator : Communicator
        The ranks; all must call this.
    task : callable
        May raise `UserError`. It must not be collective itself, for a rank that fails leaves it.

    Returns
    -------
    object
        What the task returned on this rank.

    Raises
    ------
    SharedError
        On all ranks, with the same message, when the task raised it on any. It names the ranks
        when they don't agree.
    """
    message, results = "", []
    try:
        results.append(task())
    except UserError as error:
        message = str(error)
    messages = communicator.gather_texts(message)
    complaints = sorted(set(filter(None, messages)))
    if not complaints:
        return results[0]
    if len(complaints) == 1 and all(messages):
        raise SharedError(complaints[0])
    raise SharedError("\n".join(f"{_ranks(messages, text)}: {text}" for text in complaints))


def _ranks(messages: list[str], complaint: str) -> str:
    ranks = [str(rank) for rank, message in enumerate(messages) if message == complaint]
    return f"Rank {', '.join(ranks)}"
