import math
from itertools import pairwise

import pytest

from lockstep.optim.schedules import Schedule, learning_rate_factor


def rates(**options):
    schedule = Schedule(learning_rate=2.0, **options)
    return [schedule(step) for step in range(schedule.num_steps)]


def test_constant():
    assert rates(kind="constant", num_steps=3) == [2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("scaling", "global_batch_size", "factor"),
    [("none", 8192, 1), ("linear", 8192, 64), ("sqrt", 8192, 8), ("linear", 32, 0.25)],
)
def test_rates_chosen_for_another_batch_size_are_scaled(scaling, global_batch_size, factor):
    assert learning_rate_factor(scaling, global_batch_size, reference_batch_size=128) == factor


def test_warm_up_rises_linearly_and_the_schedule_begins_after_it():
    assert rates(kind="constant", num_steps=6, warmup_steps=4) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]


def test_step_drops_by_the_factor_after_each_span():
    found = rates(kind="step", num_steps=5, decay_steps=2, decay_factor=0.1)
    assert found == pytest.approx([2.0, 2.0, 0.2, 0.2, 0.02])


def test_cosine_goes_from_the_peak_to_the_end():
    found = rates(kind="cosine", num_steps=4, final_learning_rate=1.0)
    expected = [1.0 + (1 + math.cos(math.pi * part / 4)) / 2 for part in range(4)]
    assert found == pytest.approx(expected)
    after_warm_up = rates(kind="cosine", num_steps=6, warmup_steps=2, final_learning_rate=1.0)
    assert after_warm_up == pytest.approx([1.0, 2.0, *expected])


def test_one_cycle_rises_for_three_tenths_and_ends_near_zero():
    found = rates(kind="one_cycle", num_steps=1000)
    assert found[0] == pytest.approx(2.0 / 25)
    assert found.index(max(found)) == 300
    assert found[300] == pytest.approx(2.0)
    assert found[150] == pytest.approx((2.0 + 2.0 / 25) / 2)
    assert found[650] == pytest.approx(1.0, rel=1e-3)
    assert found[-1] < 2.0 * 1e-4
    assert all(later < earlier for earlier, later in pairwise(found[300:]))
