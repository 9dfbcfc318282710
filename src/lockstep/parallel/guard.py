"""The guard of the start: ends a rank that waits in vain for others to start MPI with it.

Until MPI has started there is no connection to be watched, and nothing else in this process can
run: the MPI library holds Python's lock while it starts. So another process has to wait.
"""

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

# Python from a slow network file system may come late on some hosts.
_START_S = float(os.environ.get("LOCKSTEP_START_TIMEOUT_S", "120"))
# The root tells the news; the next rank, if the root is the one that is missing.
_TELLERS = 2
_NEXT_TELLER_S = 5.0
# What the launcher has not passed on before a rank dies may be lost.
_PASS_ON_S = 0.3


@contextmanager
def guarded(rank: int, world_size: int) -> Iterator[None]:
    """End this process, with a message, if the block takes too long."""
    if rank >= _TELLERS or not hasattr(os, "fork"):
        yield
        return
    ours, theirs = os.pipe()
    guard = os.fork()
    if guard == 0:
        _wait(ours, _START_S + rank * _NEXT_TELLER_S, os.getppid(), world_size)
    os.close(ours)
    try:
        yield
    finally:
        os.close(theirs)
        os.waitpid(guard, 0)


def _wait(pipe: int, limit_s: float, rank_process: int, world_size: int) -> NoReturn:
    """Wait until the other end of the pipe is closed, and end; or end the rank as well."""
    # What the launcher and the rank tell each other is not to be held open here.
    os.closerange(3, pipe)
    os.closerange(pipe + 1, os.sysconf("SC_OPEN_MAX"))
    waited_s = 0.0
    while waited_s < limit_s:
        # Second by second, so that a time in which the whole job is stopped does not count.
        ready, _, _ = select.select([pipe], [], [], 1.0)
        if ready:
            os._exit(0)
        waited_s += 1.0
    message = (
        f"Error: Not all of the {world_size} ranks have come to start MPI within {limit_s:.0f} s. "
        "See to the processes and hosts of the others: stopped, out of memory, or waiting for a "
        "file system? LOCKSTEP_START_TIMEOUT_S sets another limit.\n"
    )
    os.write(2, message.encode())
    time.sleep(_PASS_ON_S)
    os.kill(rank_process, signal.SIGKILL)
    os._exit(0)
