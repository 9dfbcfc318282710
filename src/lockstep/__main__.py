"""The program's entry: run a command and end every rank with the right exit code."""

import os
import sys

from lockstep.errors import INTERRUPTED
from lockstep.parallel.failure import end


def main() -> None:
    """Run `lockstep`; the console script and `python -m lockstep`."""
    try:
        from lockstep.cli import cli  # noqa: PLC0415 - a failing import must end all ranks too

        exit_code = cli.main(prog_name="lockstep", standalone_mode=False)
    except BaseException as error:  # noqa: BLE001 - whatever it is, no rank may be left waiting
        exit_code = end(error)
    if exit_code == INTERRUPTED:
        # At once: not after the checkpoints that are still to be written.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
