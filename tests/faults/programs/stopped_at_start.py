"""Run `lockstep ARGUMENTS...` with a rank, the first argument, that is stopped before all else."""

import os
import signal
import sys

from lockstep.__main__ import main
from lockstep.parallel.launch import launched_as

if launched_as()[0] == int(sys.argv.pop(1)):
    os.kill(os.getpid(), signal.SIGSTOP)
main()
