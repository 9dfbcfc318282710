"""The guard of the start: ends a rank that waits in vain for others to start MPI with it.

Until MPI has started there is no connection to be watched, and nothing else in this process can
run: the MPI library holds Python's lock while it starts. So another process has to wait.
"""

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lockstep.errors import UserError
from lockstep.parallel.failure import PASS_ON_S

# Python from a slow network file system may come late on some hosts.
_START_S = 120.0
_VARIABLE = "LOCKSTEP_START_TIMEOUT_S"
# The first of the ranks that are there tells the news and ends the others.
_NEXT_RANK_S = 5.0
_LATEST_S = 60.0


@contextmanager
def guarded(rank: int, world_size: int) -> Iterator[None]:
    """End this process, with a message, if the block takes too long.

    Raises
    ------
    UserError
        When the environment sets a limit that is no number.
    """
    limit_s = _limit_s() + min(rank * _NEXT_RANK_S, _LATEST_S)
    if not hasattr(os, "fork"):
        yield
        return
    ours, theirs = os.pipe()
    guard = os.fork()
    if guard == 0:
        try:
            _wait(ours, limit_s, os.getppid(), world_size)
        finally:
            # Whatever happens, what the rank does must not be done twice.
            os._exit(0)
    os.close(ours)
    try:
        yield
    finally:
        os.close(theirs)
        os.waitpid(guard, 0)


def _limit_s() -> float:
    text = os.environ.get(_VARIABLE, str(_START_S))
    try:
        return float(text)
    except ValueError as error:
        raise UserError(f"{_VARIABLE}={text}: a number of seconds, please.") from error


def _wait(pipe: int, limit_s: float, rank_process: int, world_size: int) -> None:
    """Wait until the other end of the pipe is closed; or end the rank."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # What the launcher and the rank tell each other is not to be held open here.
    inherited = [int(entry.name) for entry in Path("/dev/fd").iterdir()]
    for descriptor in inherited:
        if descriptor > 2 and descriptor != pipe:
            with suppress(OSError):
                os.close(descriptor)
    waited_s = 0.0
    while waited_s < limit_s:
        # Second by second, so that a time in which the whole job is stopped does not count.
        ready, _, _ = select.select([pipe], [], [], 1.0)
        if ready:
            return
        waited_s += 1.0
    message = (
        f"Error: Not all of the {world_size} ranks have come to start MPI within {limit_s:.0f} s. "
        "See to the processes and hosts of the others: stopped, out of memory, or waiting for a "
        f"file system? {_VARIABLE} sets another limit.\n"
    )
    with suppress(OSError):
        os.write(2, message.encode())
    time.sleep(PASS_ON_S)
    os.kill(rank_process, signal.SIGKILL)
