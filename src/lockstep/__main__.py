"""The program's entry: run a command and end every rank with the right exit code."""

import sys
import traceback

import click

from lockstep.errors import SharedError, UserError
from lockstep.parallel.launch import abort_ranks, launched_as

# Exit codes: what the user got wrong, what broke, what the user interrupted.
USER_ERROR, FAILURE, INTERRUPTED = 2, 1, 130


def main() -> None:
    """Run `lockstep`; the console script and `python -m lockstep`."""
    rank, world_size = launched_as()
    try:
        from lockstep.cli import cli  # noqa: PLC0415 - a failing import must end all ranks too

        exit_code = cli.main(prog_name="lockstep", standalone_mode=False)
    except click.ClickException as error:
        # Every rank has the same command line, so one of them tells.
        if rank == 0:
            error.show()
        exit_code = USER_ERROR
    except SharedError as error:
        if rank == 0:
            _tell(str(error))
        exit_code = USER_ERROR
    except UserError as error:
        _tell(str(error) if world_size == 1 else f"Rank {rank}: {error}")
        abort_ranks(USER_ERROR)
        exit_code = USER_ERROR
    except (KeyboardInterrupt, click.Abort):
        abort_ranks(INTERRUPTED)
        exit_code = INTERRUPTED
    except Exception:  # noqa: BLE001 - whatever it is, no other rank may be left waiting
        if world_size > 1:
            click.echo(f"Rank {rank} failed:", err=True)
        traceback.print_exc()
        abort_ranks(FAILURE)
        exit_code = FAILURE
    sys.exit(exit_code)


def _tell(message: str) -> None:
    click.echo(f"Error: {message}", err=True)


if __name__ == "__main__":
    main()
