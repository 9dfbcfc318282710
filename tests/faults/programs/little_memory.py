"""Runs Lockstep as if the ranks from one on were on a host with little memory left.

little_memory.py FIRST_RANK BYTES COMMAND...
"""

import sys

from lockstep.__main__ import main
from lockstep.parallel.launch import launched_as
from lockstep.train import room

first_rank, num_bytes = map(int, sys.argv[1:3])
del sys.argv[1:3]
if launched_as()[0] >= first_rank:
    room.memory_rooms = lambda: {"small-host": num_bytes}
main()
