"""The self-test of reductions, and the choice between them."""

import numpy as np
import pytest

from lockstep.errors import SharedFailureError
from lockstep.parallel.choice import fastest, self_test
from lockstep.parallel.single import LocalReduction, SingleProcess

SHAPES = [(5, 7), (8, 3), (3,)]
NUM_VIRTUAL_RANKS = 6


class Faulty(LocalReduction):
    """Adds, and then something happens to the sum."""

    name = "a faulty one"

    def __init__(self, damage, dtype="float32"):
        super().__init__(NUM_VIRTUAL_RANKS, SHAPES, dtype)
        self.damage = damage

    def all_gather(self):
        total = super().all_gather().copy()
        self.damage(total)
        return total


def test_a_right_sum_passes():
    for dtype in ("float32", "float64"):
        reduction = Faulty(lambda total: None, dtype)
        self_test(reduction, SingleProcess(), NUM_VIRTUAL_RANKS, in_order=True)


def lose_one(total):
    total[17] = 0


def shift(total):
    total[:] = np.roll(total, 1)


def swap_slices(total):
    total[:10], total[10:20] = total[10:20].copy(), total[:10].copy()


def round_otherwise(total):
    total[3] = np.nextafter(total[3], np.float32(np.inf))


def forget(total):
    total[40:] = np.nan


@pytest.mark.parametrize("damage", [lose_one, shift, swap_slices, round_otherwise, forget])
def test_a_wrong_sum_is_refused_naming_the_way_and_the_rank(damage):
    with pytest.raises(
        SharedFailureError, match=r"\(a faulty one\) has failed its self-test.*rank 0"
    ):
        self_test(Faulty(damage), SingleProcess(), NUM_VIRTUAL_RANKS, in_order=True)


def test_rounding_is_forgiven_where_no_order_is_promised_but_nothing_else_is():
    self_test(Faulty(round_otherwise), SingleProcess(), NUM_VIRTUAL_RANKS, in_order=False)
    for damage in (lose_one, shift, swap_slices, forget):
        with pytest.raises(SharedFailureError):
            self_test(Faulty(damage), SingleProcess(), NUM_VIRTUAL_RANKS, in_order=False)


def test_another_order_of_the_additions_is_noticed():
    class Backwards(LocalReduction):
        def add(self, group):
            leaves = self.leaves[group]
            leaves[...] = leaves[::-1].copy()
            super().add(group)

    reduction = Backwards(NUM_VIRTUAL_RANKS, SHAPES, "float32")
    with pytest.raises(SharedFailureError):
        self_test(reduction, SingleProcess(), NUM_VIRTUAL_RANKS, in_order=True)


class Timed:
    def __init__(self, cost, log):
        self.cost, self.log = cost, log

    def close(self):
        self.log.append(("close", self.cost))


def test_the_fastest_candidate_is_made_and_the_others_are_closed(monkeypatch):
    now, log = [0.0], []
    monkeypatch.setattr("lockstep.parallel.choice.perf_counter", lambda: now[0])

    def rehearse(reduction):
        now[0] += reduction.cost

    candidates = [lambda cost=cost: Timed(cost, log) for cost in (3, 1, 2)]
    assert fastest(candidates, SingleProcess(), rehearse).cost == 1
    assert log == [("close", 3), ("close", 1), ("close", 2)]


def test_a_single_candidate_needs_no_measurement():
    def rehearse(reduction):
        raise AssertionError

    assert fastest([lambda: Timed(5, [])], SingleProcess(), rehearse).cost == 5
