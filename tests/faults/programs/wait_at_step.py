"""Run `lockstep ARGUMENTS...` and wait in the third step until a file is there.

The first argument names the file. Beside it, one with `.waiting` at its end tells of the wait.
"""

import sys
import time
from pathlib import Path

from lockstep.__main__ import main
from lockstep.data.batches import Batches

awaited = Path(sys.argv.pop(1))
fill = Batches.fill
calls = []


def waiting_fill(*arguments, **options):
    calls.append(None)
    if len(calls) == 3:
        awaited.with_name(awaited.name + ".waiting").touch()
        while not awaited.exists():
            time.sleep(0.01)
    return fill(*arguments, **options)


Batches.fill = waiting_fill
main()
