"""Who goes on, worked by hand."""

import pytest

from lockstep.search.standings import Standing, survivors


def test_the_best_of_three_go_on_by_accuracy_then_loss_then_number():
    standings = [
        Standing(0, 2, 0.90, 0.5),
        Standing(1, 2, 0.95, 0.4),
        Standing(2, 2, 0.95, 0.3),
        Standing(3, 2, 0.99, 0.1, has_diverged=True),
        Standing(4, 2, 0.95, 0.4),
        Standing(5, 0, None, None, has_diverged=True),
        Standing(6, 2, 0.91, 0.4),
    ]
    best = sorted(standings, key=lambda standing: standing.rank)
    assert [standing.trial for standing in best] == [2, 1, 4, 6, 0, 3, 5]
    assert survivors(standings, 3) == [1, 2]
    assert survivors(standings, 2) == [1, 2, 4]


@pytest.mark.parametrize(("num_trials", "factor", "expected"), [(9, 3, 3), (8, 3, 2), (2, 3, 1)])
def test_so_many_go_on(num_trials, factor, expected):
    standings = [Standing(trial, 1, trial / 10, 1.0) for trial in range(num_trials)]
    assert survivors(standings, factor) == list(range(num_trials))[-expected:]


def test_nobody_goes_on_where_all_have_diverged():
    assert survivors([Standing(0, 0, None, None, has_diverged=True)] * 3, 3) == []
