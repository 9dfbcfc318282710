"""Run `lockstep ARGUMENTS...` as if each two ranks were on a host of their own: node0, node1, ...

The environment variable NODE is the host's name there, and what is in `BROKEN` goes wrong on the
last rank, which is the first of its host if there are three.
"""

import os
import shutil
import signal
import socket
import time
from types import SimpleNamespace

import numpy as np

import lockstep
from lockstep.__main__ import main
from lockstep.parallel import watch
from lockstep.parallel.launch import launched_as
from lockstep.train import run

# The watchdog of a training would not put up with it.
_TIMEOUT_S = 3.0
_SLOW_S = 8
copy_file = shutil.copyfile


def be_slow(*arguments):
    time.sleep(_SLOW_S)
    copy_file(*arguments)


def die(*_arguments):
    os.kill(os.getpid(), signal.SIGKILL)


def flip_byte(original, copy):
    copy_file(original, copy)
    content = bytearray(copy.read_bytes())
    content[100_000] ^= 1
    copy.write_bytes(content)


BREAK = {
    "full": lambda: setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=0)),
    "slow": lambda: setattr(shutil, "copyfile", be_slow),
    "dies": lambda: setattr(shutil, "copyfile", die),
    "damages": lambda: setattr(shutil, "copyfile", flip_byte),
    "elsewhere": lambda: setattr(run, "stage", lambda dataset, folder, warn: "/no/copy.h5"),
    "other NumPy": lambda: setattr(np, "__version__", "1.99"),
    "other Lockstep": lambda: setattr(lockstep, "__version__", "0.0.99"),
    "": lambda: None,
}

rank, world_size = launched_as()
node = f"node{rank // 2}"
os.environ["NODE"] = node
socket.gethostname = lambda: node
broken = os.environ.get("BROKEN", "")
if broken == "slow":
    watch.DEFAULT_TIMEOUT_S = _TIMEOUT_S
if rank == world_size - 1:
    BREAK[broken]()
main()
