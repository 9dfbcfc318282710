"""Signals as requests, in processes of their own."""

import signal
import subprocess
import sys

import pytest

from lockstep.train.requests import Requests

PROGRAM = """
import os, signal, sys, time
from lockstep.train import requests
requests._GRACE_S = 1
asked = requests.Requests()
with requests.listen(asked):
    for name in sys.argv[2:]:
        os.kill(os.getpid(), getattr(signal, name))
    print(asked.save, asked.stop, flush=True)
    if sys.argv[1] == "hang":
        # As a rank does whose peer never comes.
        while True:
            time.sleep(0.1)
time.sleep(1.5)
os.kill(os.getpid(), signal.SIGUSR1)
"""


def run(mode, *names):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode, *names],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout.split(), done.returncode


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_to_stop_is_noted_and_one_that_can_not_be_obeyed_ends_the_process(name):
    assert run("hang", name) == (["False", "True"], -signal.SIGALRM)


def test_one_that_is_obeyed_does_no_more_and_afterwards_signals_do_what_they_always_did():
    assert run("obey", "SIGTERM", "SIGTERM") == (["False", "True"], -signal.SIGUSR1)


def test_a_signal_to_save_does_not_stop():
    assert run("obey", "SIGUSR2") == (["True", "False"], -signal.SIGUSR1)


def test_saving_is_asked_for_once():
    requests = Requests()
    requests.save = True
    assert [requests.take_save(), requests.take_save()] == [True, False]


HELD = """
import os, signal
from lockstep.parallel.early import hold_signals
from lockstep.train.requests import Requests, listen
hold_signals()
os.kill(os.getpid(), signal.SIGTERM)
asked = Requests()
print(asked.stop)
with listen(asked):
    print(asked.stop)
"""


def test_signals_that_were_held_at_the_start_are_taken_by_a_training_that_listens():
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "True"]
