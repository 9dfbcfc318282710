"""Run `lockstep ARGUMENTS...` with one of the root's observers failing.

The first argument says which: "bar", the progress bar in mid-epoch; "line", the line of an epoch;
"trace"; or "metrics", which can't be written from the second epoch on, for there is a folder in
their place. The file is kept beside it.
"""

import sys

from lockstep.__main__ import main
from lockstep.train.observers import Console
from lockstep.train.record import RunRecord

POINTS = {
    "bar": (Console, "step_done", 30, RuntimeError("the bar broke")),
    "line": (Console, "epoch_done", 2, RuntimeError("the line broke")),
    "trace": (RunRecord, "traced", 30, OSError(28, "No space left on device")),
}


def fail(owner, name, number, error):
    original = getattr(owner, name)
    calls = []

    def failing(observer, *arguments):
        calls.append(None)
        if len(calls) == number:
            raise error
        original(observer, *arguments)

    setattr(owner, name, failing)


def block_metrics():
    begin = RunRecord.epoch_begins

    def begin_and_block(record, epoch, *arguments):
        begin(record, epoch, *arguments)
        if epoch == 2:
            path = record._folder.metrics  # noqa: SLF001 - where it is
            path.rename(f"{path}.kept")
            path.mkdir()

    RunRecord.epoch_begins = begin_and_block


point = sys.argv.pop(1)
if point == "metrics":
    block_metrics()
else:
    fail(*POINTS[point])
main()
