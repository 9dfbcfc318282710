"""Save checkpoints in forked children, which start quickly and can be traced one by one.

Each line on standard input starts a child; its process number and its exit code are printed.

    once FOLDER STEP LIMIT   save one checkpoint after one more byte from standard input;
                             no file may be longer than LIMIT bytes, -1 for no limit
    forever FOLDER STEP      save checkpoints of this step and the steps after it

Exit code 3 tells an OSError, 1 any other.
"""

import contextlib
import ctypes
import itertools
import os
import resource
import sys
import traceback
from pathlib import Path

import numpy as np

from lockstep.storage.checkpoint import Checkpoint, CheckpointStore

PR_SET_PTRACER, ANY = 0x59616D61, ctypes.c_ulong(-1)


def once(folder, step, limit):
    # Where only ancestors may trace, any process may trace this one.
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANY, 0, 0, 0)
    store = CheckpointStore(folder)
    content = checkpoint(step, 3000)
    os.read(0, 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        if limit >= 0:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        store.save(content, is_best=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)  # the message may go to a file


def forever(folder, first):
    store = CheckpointStore(folder, keep=2)
    for step in itertools.count(first):
        if os.getppid() != parent:
            return  # nobody is left to end this
        store.save(checkpoint(step, 250_000), is_best=step % 3 == 0)


def checkpoint(step, size):
    arrays = {"weight": np.full(size, step, np.float32), "bias": np.full(2, step, np.float64)}
    return Checkpoint(arrays, {"step": step})


def child(command, folder, *numbers):
    """Return the exit code."""
    try:
        {"once": once, "forever": forever}[command](Path(folder), *map(int, numbers))
    except OSError as error:
        print(error, file=sys.stderr, flush=True)
        return 3
    except BaseException:  # noqa: BLE001 - a child never returns to the loop below
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    return 0


parent = os.getpid()
# Without a buffer, a child finds the byte that is meant for it.
with open(0, "rb", buffering=0) as lines:
    for line in lines:
        process = os.fork()
        if not process:
            os._exit(child(*line.decode().split()))
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
