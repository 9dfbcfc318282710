"""Run `lockstep ARGUMENTS...` and have a call of MPI fail on rank 0.

The first argument tells what becomes of rank 1: it `dies` a second later, or it `lives`.
"""

import os
import signal
import sys
import time

from lockstep.__main__ import main
from lockstep.data.batches import Batches
from lockstep.parallel.launch import launched_as

RANK = launched_as()[0]
fate = sys.argv.pop(1)
fill = Batches.fill


def failing(*arguments, **options):
    if RANK == 0:
        from mpi4py import MPI  # noqa: PLC0415 - loading it starts MPI

        raise MPI.Exception(MPI.ERR_IN_STATUS)
    if fate == "dies":
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGKILL)
    return fill(*arguments, **options)


Batches.fill = failing
main()
