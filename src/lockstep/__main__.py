"""The program's entry: run a command and end every rank with the right exit code."""

import os
import sys
from pathlib import Path

from lockstep.errors import INTERRUPTED
from lockstep.parallel.early import hold_signals
from lockstep.parallel.failure import end, leave


def main() -> None:
    """Run `lockstep`; the console script and `python -m lockstep`."""
    for name in ("stdout", "stderr"):
        # Python has no stream where the file is closed.
        if getattr(sys, name) is None:
            nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - stays open
            setattr(sys, name, nowhere)
    if any(word.startswith("--requeue") for word in sys.argv):
        # A job's script, which is to go on after a signal: also when imports take their time.
        hold_signals()
    try:
        from lockstep.cli import cli  # noqa: PLC0415 - a failing import must end all ranks too

        exit_code = cli.main(prog_name="lockstep", standalone_mode=False)
    except BaseException as error:  # noqa: BLE001 - whatever it is, no rank may be left waiting
        exit_code = end(error)
    # An interrupt does not wait for the checkpoints that are still to be written.
    leave(exit_code, at_once=exit_code == INTERRUPTED)


if __name__ == "__main__":
    main()
