"""How a process ends when something has failed: it says so once, and takes all ranks along."""

import os
import signal
import sys
import threading
import time
import traceback
from types import ModuleType, TracebackType
from typing import NoReturn

import click

from lockstep.errors import FAILURE, INTERRUPTED, USER_ERROR, SharedError, UserError
from lockstep.parallel.launch import launched_as

# What the launcher has not passed on before the abort, such as the reason for it, may be lost.
PASS_ON_S = 0.3
# A rank's death makes calls of MPI fail in others, now and then before its launcher has ended them
# or the watchdog has said why.
_NEWS_S = 5.0
# The rank that tells the errors of all, as the launcher has counted; in the environment of a
# process that has gone on without a rank that has died.
TELLER = "LOCKSTEP_TELLER"


def end(error: BaseException) -> int:
    """Tell what has happened, once, and end all ranks.

    Parameters
    ----------
    error : BaseException
        What this rank has failed with.

    Returns
    -------
    int
        The exit code, where this process is to end by itself.
    """
    rank, world_size = launched_as()
    if isinstance(error, click.ClickException | SharedError):
        # It is raised on every rank, and all of them end by themselves.
        if rank != int(os.environ.get(TELLER, "0")):
            pass
        elif isinstance(error, click.ClickException):
            error.show()
        else:
            click.echo(f"Error: {error}", err=True)
        return error.exit_code if isinstance(error, SharedError) else USER_ERROR
    if world_size > 1 and _is_of_mpi(error):
        time.sleep(_NEWS_S)
    exit_code, message = _verdict(error)
    # Several ranks may fail with the same, each by itself.
    if message and _is_first_to_tell():
        where = f"Rank {rank}: " if world_size > 1 else ""
        click.echo(f"Error: {where}{message}", err=True)
    abort_ranks(exit_code)
    return exit_code


def leave(exit_code: int, *, at_once: bool) -> NoReturn:
    """End this process: at once, or in good order, as far as its MPI library can do that."""
    # Open MPI's finalization may wait for ever for a rank that has died.
    if not (at_once or TELLER in os.environ):
        sys.exit(exit_code)
    if not at_once:
        _wait_for_threads()
    _watch().close_all()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def _wait_for_threads() -> None:
    """Wait, as Python does at its end, for threads such as the one that writes checkpoints."""
    for thread in threading.enumerate():
        if thread is not threading.main_thread() and not thread.daemon:
            thread.join()


def _watch() -> ModuleType:
    from lockstep.parallel import watch  # noqa: PLC0415 - it imports this

    return watch


def _is_first_to_tell() -> bool:
    try:
        return bool(_watch().is_first_to_tell("failure"))
    except ImportError:
        return True


def end_on_exceptions() -> None:
    """Have every exception that nobody catches end all ranks, in a program of the user's own."""
    sys.excepthook = _end_on_exception


def _end_on_exception(
    kind: type[BaseException], error: BaseException, where: TracebackType | None
) -> None:
    del kind, where
    sys.exit(end(error))


def _is_of_mpi(error: BaseException) -> bool:
    """Return whether the MPI library has reported it, whose loading here would start it."""
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and isinstance(error, mpi.Exception)


def _verdict(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the message for an error of this rank alone."""
    if isinstance(error, UserError):
        return USER_ERROR, str(error)
    if isinstance(error, MemoryError):
        return USER_ERROR, f"Not enough memory; try a smaller network or batch. {error}"
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return INTERRUPTED, "Interrupted."
    if isinstance(error, SystemExit):
        # click's way to leave when nobody reads the output any more, as after `| head`.
        return FAILURE, ""
    if isinstance(error, OSError):
        return FAILURE, f"{error}. Is there room on the disk, and may you write there?"
    return FAILURE, "".join(traceback.format_exception(error)).strip()


def abort_ranks(exit_code: int) -> None:
    """End all ranks at once if this process is one of several; otherwise do nothing.

    Without it, the others would wait for this one in their next collective call, or already in
    the start of MPI if this one has failed before that: so MPI is started here if need be.
    """
    if launched_as()[1] == 1:
        return
    try:
        from lockstep.parallel.mpi import MPIRanks  # noqa: PLC0415 - loading it starts MPI
    except (ImportError, RuntimeError):
        # The launcher only takes the other ranks along if this one doesn't just leave.
        os.kill(os.getpid(), signal.SIGTERM)
        return
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(PASS_ON_S)
    MPIRanks().abort(exit_code)
