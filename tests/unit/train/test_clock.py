"""The clock: the time goes to the phase that is left."""

import pytest

from lockstep.train import clock as module
from lockstep.train.clock import Clock


@pytest.fixture
def at(monkeypatch):
    """Set the time."""
    now = [100.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])

    def set_time(seconds):
        now[0] = 100.0 + seconds

    return set_time


def test_time_goes_to_the_phase_that_is_left_and_to_no_other(at):
    clock = Clock()
    for seconds, phase in [
        (1, "data"),
        (3, "compute"),
        (7, "saving"),
        (15, "data"),
        (31, "reduce"),
    ]:
        at(seconds)
        clock.enter(phase)
        assert (clock.phase, clock.since_s) == (phase, 100.0 + seconds)
    at(40)
    # Neither the second before the first phase counts, nor the saving, nor what is under way.
    nothing = {"update": 0.0, "evaluation": 0.0, "reduce": 0.0}
    assert clock.seconds == {"data": 2 + 16, "compute": 4, **nothing}
    assert clock.elapsed_s == 40
    clock.enter("update")
    assert clock.seconds["reduce"] == 9


def test_a_clock_goes_on_from_what_was_spent(at):
    clock = Clock()
    clock.enter("data")
    at(5)
    clock.enter("saving")
    spent = clock.spent
    assert spent == {"compute": 0, "reduce": 0, "update": 0, "data": 5, "evaluation": 0, "total": 5}
    at(100)
    clock.enter("data")
    clock.reset(spent)
    at(102)
    assert clock.elapsed_s == 7
    clock.enter("compute")
    assert clock.seconds["data"] == 7
    clock.reset()
    assert clock.elapsed_s == 0
    assert not any(clock.seconds.values())
