"""The program's entry: run a command and end every rank with the right exit code."""

import os
import sys
import traceback

import click

from lockstep.errors import FAILURE, INTERRUPTED, USER_ERROR, SharedError, UserError
from lockstep.parallel.launch import abort_ranks, launched_as


def main() -> None:
    """Run `lockstep`; the console script and `python -m lockstep`."""
    try:
        from lockstep.cli import cli  # noqa: PLC0415 - a failing import must end all ranks too

        exit_code = cli.main(prog_name="lockstep", standalone_mode=False)
    except BaseException as error:  # noqa: BLE001 - whatever it is, no rank may be left waiting
        exit_code = _end(error)
    if exit_code == INTERRUPTED:
        # At once: not after the checkpoints that are still to be written.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


def _end(error: BaseException) -> int:
    """Tell what has happened, once, and end all ranks; return the exit code."""
    rank, world_size = launched_as()
    if isinstance(error, click.ClickException | SharedError):
        # It is raised on every rank, and all of them end by themselves.
        if rank == 0 and isinstance(error, click.ClickException):
            error.show()
        elif rank == 0:
            click.echo(f"Error: {error}", err=True)
        return error.exit_code if isinstance(error, SharedError) else USER_ERROR
    exit_code, message = _verdict(error)
    if message:
        where = f"Rank {rank}: " if world_size > 1 else ""
        click.echo(f"Error: {where}{message}", err=True)
    abort_ranks(exit_code)
    return exit_code


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


if __name__ == "__main__":
    main()
