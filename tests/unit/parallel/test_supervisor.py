"""What the supervisor makes of how a launcher and its ranks have ended."""

import os
import sys
from types import SimpleNamespace

import pytest

from lockstep.parallel.supervisor import supervise
from lockstep.parallel.watch import SUPERVISOR

# One that calls the supervisor as rank 0 does, ends all ranks or not, and crashes.
LAUNCHER = """
import json, os, signal
from lockstep.parallel.heartbeat import call

token, port, addresses = json.loads(os.environ["{variable}"])
line = call(addresses, port, bytes.fromhex(token), 0)
if {exit_code}:
    line.announce_abort({exit_code})
line.farewell()
os.kill(os.getpid(), signal.{how})
"""


@pytest.mark.parametrize(
    ("exit_code", "how", "expected", "num_starts"),
    [
        (2, "SIGSEGV", 2, 1),
        (1, "SIGSEGV", 1, 1),
        # A rank that was lost, and what nobody has announced, are a reason to start again.
        (69, "SIGSEGV", 69, 2),
        (0, "SIGSEGV", 69, 2),
        (2, "SIGKILL", 69, 2),
    ],
)
def test_a_launcher_that_crashes_after_an_abort_hides_no_exit_code(
    exit_code, how, expected, num_starts
):
    starts = []

    def command(arguments, variables):
        starts.append(arguments)
        code = LAUNCHER.format(variable=SUPERVISOR, exit_code=exit_code, how=how)
        return [sys.executable, "-c", code], {**os.environ, **variables}

    launch = SimpleNamespace(num_ranks=2, hosts={}, is_here=True, command=command)
    assert supervise(launch, lambda: ["train"], lambda: False, 1, "") == expected
    assert len(starts) == num_starts
