"""When a training stops for the end of its job."""

import pytest

from lockstep.train.deadline import Deadline

START_S = 1_000_000.0
# Kept for what follows the last checkpoint.
MARGIN_S = 10.0


def looks(deadline, times_s, num_steps, save_s=0.0):
    """Look at the beginning of steps, in epochs of so many steps, and return the answers."""
    return [
        deadline.is_near(num_steps - number % num_steps, save_s, START_S + time_s)
        for number, time_s in enumerate(times_s)
    ]


def test_there_must_be_time_for_two_steps_and_the_margin():
    # Steps of 3 s: the one that begins with 16 s left is the last one that another may follow.
    deadline = Deadline(START_S + 40)
    assert looks(deadline, [0, 3, 6, 9], 100) == [False] * 4
    assert looks(deadline, [24], 100) == [True]
    assert deadline.has_come


def test_the_slowest_step_counts():
    deadline = Deadline(START_S + MARGIN_S + 100)
    # 30 s, then 1 s: with 59 s left, two of the slow ones would be too much.
    assert looks(deadline, [0, 30, 31, 39.9], 100) == [False] * 4
    assert looks(deadline, [41], 100) == [True]


def test_a_save_may_be_under_way_when_another_is_asked_for():
    assert looks(Deadline(START_S + MARGIN_S + 21), [0], 100, save_s=10) == [False]
    assert looks(Deadline(START_S + MARGIN_S + 19), [0], 100, save_s=10) == [True]


@pytest.mark.parametrize(("left_s", "expected"), [(16.0, False), (15.9, True)])
def test_an_evaluation_is_waited_for_where_it_comes_next(left_s, expected):
    # Epochs of 3 steps of 1 s, and an evaluation of 5 s after each.
    deadline = Deadline(START_S + MARGIN_S + left_s)
    assert looks(deadline, [0, 1, 2, 8], 3) == [False] * 4
    # The evaluation comes after the step after this one: 1 + 1 + 5 s from second 9 on.
    assert deadline.is_near(2, 0.0, START_S + 9) is expected


def test_without_an_end_it_never_comes():
    deadline = Deadline(float("inf"))
    assert looks(deadline, [0, 1000, 10**9], 2) == [False] * 3
