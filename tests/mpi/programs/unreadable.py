"""Run `lockstep ARGUMENTS...` and fail in reading, on the last rank.

The first argument is the number of reads that go well there.
"""

import sys

from lockstep.__main__ import main
from lockstep.data.dataset_file import DatasetFile
from lockstep.errors import UserError
from lockstep.parallel.launch import launched_as

num_good = int(sys.argv.pop(1))
read = DatasetFile.read
calls = []


def read_or_fail(dataset, *arguments):
    calls.append(None)
    if len(calls) > num_good:
        raise UserError(f"{dataset.path} is damaged: can't read train/x")
    return read(dataset, *arguments)


rank, world_size = launched_as()
if rank == world_size - 1:
    DatasetFile.read = read_or_fail
main()
