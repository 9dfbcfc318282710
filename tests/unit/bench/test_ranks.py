"""What ranks learn of each other when they measure."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from lockstep.bench.ranks import check_ranks, gather_figures, slowest_s
from lockstep.errors import SharedError
from lockstep.parallel.binding import Binding
from lockstep.parallel.crowding import is_crowded
from lockstep.parallel.single import SingleProcess


class Rank1Of3(SingleProcess):
    """A rank between two others that have measured 4 and 9 seconds, and where each may run."""

    rank, world_size = 1, 3

    def __init__(self, *masks):
        self.calls = []
        self._masks = masks

    def meet(self):
        self.calls.append("meet")

    def gather_rows(self, rows):
        self.calls.append("gather")
        return np.vstack([np.full_like(rows, 4.0), rows, np.full_like(rows, 9.0)])

    def gather_texts(self, text):
        del text
        bindings = [Binding("alpha", tuple(mask), tuple(range(64))) for mask in self._masks]
        return [json.dumps(asdict(binding)) for binding in bindings]


def test_the_slowest_rank_counts():
    assert slowest_s(Rank1Of3(), 5.0) == 9.0
    assert slowest_s(Rank1Of3(), 12.5) == 12.5
    assert slowest_s(SingleProcess(), 5.0) == 5.0


def test_ranks_sleep_until_all_have_measured():
    group = Rank1Of3()
    figures = gather_figures(group, [1.0, 2.0])
    np.testing.assert_array_equal(figures, [[4.0, 4.0], [1.0, 2.0], [9.0, 9.0]])
    assert group.calls == ["meet", "gather"]


def test_more_ranks_than_there_are_can_not_be_measured():
    check_ranks(Rank1Of3(), [1, 3])
    with pytest.raises(SharedError, match=r"--ranks 4,2 needs 4 ranks, but .* has started 3"):
        check_ranks(Rank1Of3(), [4, 2])


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        ([{0}, {1}, {2}], False),
        ([range(3)] * 3, False),
        ([range(2)] * 3, True),
        # The machine has 64 cores, but they can't leave theirs.
        ([{0}, {0}, {1}], True),
    ],
)
def test_ranks_are_crowded_where_they_may_use_too_few_cores(masks, expected):
    assert is_crowded(Rank1Of3(*masks)) is expected
