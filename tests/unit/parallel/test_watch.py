"""What a rank's watchdog tells of it."""

import threading
import time

import pytest

from lockstep.parallel import watch
from lockstep.parallel.watch import Crew, Watch

BURNT_S = 0.02
NUM_BEATS = 10


class BusyLine:
    """A connection to the root that costs the watchdog much processor time."""

    has_left = False

    def __init__(self):
        self.beats, self.is_enough = [], threading.Event()

    def send(self, beat):
        self.beats.append(beat)
        if len(self.beats) > NUM_BEATS:
            self.is_enough.set()

    def receive_for(self, _timeout_s):
        end_s = time.thread_time() + BURNT_S
        while time.thread_time() < end_s:
            pass
        return []

    def farewell(self):
        pass

    def close(self):
        pass


@pytest.fixture
def line(monkeypatch):
    monkeypatch.setattr(watch, "_watches", [])
    line = BusyLine()
    crew = Crew(1, ["Rank 0", "Rank 1"], ["here", "here"], "token", can_lose_ranks=False)
    of_rank = Watch(crew, line, abort=pytest.fail)
    yield line
    of_rank.close()


def test_the_watchdogs_own_work_does_not_make_a_hanging_rank_look_busy(line):
    assert line.is_enough.wait(60)
    used_s = line.beats[NUM_BEATS].cpu_s - line.beats[0].cpu_s
    assert used_s < NUM_BEATS * BURNT_S / 2
