"""Failing together: what one rank finds wrong, all ranks learn."""

import socket
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from lockstep.errors import SharedError, SharedFailureError, UserError
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
    messages = _messages(communicator, message)
    complaints = sorted(set(filter(None, messages)))
    if not complaints:
        return results[0]
    if len(complaints) == 1 and all(messages):
        raise SharedError(complaints[0])
    names = rank_names(communicator)
    raise SharedError("\n".join(f"{_ranks(names, messages, text)}: {text}" for text in complaints))


def on_root(communicator: Communicator, task: Callable[[], Result]) -> Result | None:
    """Run a task on the root rank, while the others sleep; all fail if it fails.

    Parameters
    ----------
    communicator : Communicator
        The ranks; all must call this.
    task : callable
        May raise `UserError`. It must not be collective itself.

    Returns
    -------
    object or None
        What the task returned, on the root.

    Raises
    ------
    SharedError
        On all ranks, with the same message, when the task raised it.
    """
    message, result = "", None
    if communicator.rank == 0:
        try:
            result = task()
        except UserError as error:
            message = str(error)
    message = _messages(communicator, message)[0]
    if message:
        raise SharedError(message)
    return result


def on_living_root(communicator: Communicator, task: Callable[[], Result]) -> Result | None:
    """Run a task on the root rank, and when that dies, again on the next one; see `on_root`."""
    while True:
        try:
            return on_root(communicator, task)
        except RuntimeError as error:
            survivors = communicator.survivors(error)
            if survivors is None:
                raise
            communicator = survivors


def on_first_ranks(
    communicator: Communicator, num_ranks: int, task: Callable[[Communicator], Result]
) -> Result | None:
    """Run a task on the first so many ranks, while the others sleep; all share its failure.

    Parameters
    ----------
    communicator : Communicator
        The ranks; all must call this.
    num_ranks : int
        How many of them do the task.
    task : callable
        Gets the communicator of those ranks. It may be collective among them, and may raise
        `SharedError` on all of them alike.

    Returns
    -------
    object or None
        What the task returned on this rank; None where it had no part in it.

    Raises
    ------
    SharedError
        On all ranks, when the task raised it; of the same kind.
    """
    group = communicator.first_ranks(num_ranks)
    message, is_failure, result = "", False, None
    if group is not None:
        try:
            result = task(group)
        except SharedError as error:
            message, is_failure = str(error), isinstance(error, SharedFailureError)
    message = _messages(communicator, message)[0]
    if not message:
        return result
    if communicator.sum_counts(np.array([is_failure], np.int64))[0]:
        raise SharedFailureError(message)
    raise SharedError(message)


def _messages(communicator: Communicator, own: str) -> list[str]:
    """Return the messages of all ranks."""
    # One rank's task may take long, and needs the cores more than those that wait.
    communicator.meet()
    return communicator.gather_texts(own)


def rank_names(communicator: Communicator) -> list[str]:
    """Return the ranks' numbers, with their hosts where there are several; collective."""
    hosts = communicator.gather_texts(socket.gethostname())
    if len(set(hosts)) == 1:
        return [str(rank) for rank in range(len(hosts))]
    return [f"{rank} ({host})" for rank, host in enumerate(hosts)]


def _ranks(names: list[str], messages: list[str], complaint: str) -> str:
    ranks = [name for name, message in zip(names, messages, strict=True) if message == complaint]
    return f"Rank {', '.join(ranks)}"
