"""Run `lockstep ARGUMENTS...` and ask the last rank to stop after a step, the first argument."""

import sys

from lockstep.__main__ import main
from lockstep.parallel.launch import launched_as
from lockstep.train import requests

step = int(sys.argv.pop(1))
rank, world_size = launched_as()


class StopAfter(requests.Requests):
    def __init__(self):
        super().__init__(stop_after=step)


if rank == world_size - 1:
    requests.Requests = StopAfter
main()
