"""Run `lockstep ARGUMENTS...` and fail on one rank at one point.

The first two arguments are the rank and the point, the rest are Lockstep's.
"""

import sys

from lockstep.__main__ import main
from lockstep.data.batches import Batches
from lockstep.data.dataset_file import DatasetFile
from lockstep.errors import UserError
from lockstep.parallel.launch import launched_as
from lockstep.report import report
from lockstep.train.record import RunRecord

POINTS = {
    "reading": (DatasetFile, "read", UserError("digits.h5 can't be read any more")),
    "step": (Batches, "fill", RuntimeError("the step broke")),
    "save": (RunRecord, "epoch_done", OSError(28, "No space left on device")),
    "report": (report, "read_run", RuntimeError("the plot broke")),
}


def install(point):
    owner, name, error = POINTS[point]
    original = getattr(owner, name)
    calls = []

    def failing(*arguments, **options):
        calls.append(None)
        if len(calls) >= 3 or point != "step":
            raise error
        return original(*arguments, **options)

    setattr(owner, name, failing)


failing_rank, point = int(sys.argv[1]), sys.argv[2]
del sys.argv[1:3]
if launched_as()[0] == failing_rank:
    if point == "import":
        sys.modules["lockstep.cli"] = None
    else:
        install(point)
main()
