"""Who goes on, worked by hand."""

import pytest

from lockstep.search.standings import Standing, standing_of, survivors
from lockstep.storage.run_folder import RunFolder, append_json_line


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


def test_a_later_rung_counts_more_than_accuracy_and_epochs_do_not_count():
    standings = [
        Standing(0, 30, 0.90, 0.5, rung=0),
        Standing(1, 9, 0.80, 0.5, rung=1),
        Standing(2, 4, 0.95, 0.5, rung=0),
        Standing(3, 9, 0.70, 0.5, has_diverged=True, rung=1),
    ]
    best = sorted(standings, key=lambda standing: standing.rank)
    assert [standing.trial for standing in best] == [1, 2, 0, 3]


def run_with(tmp_path, accuracies, tested_weights="best"):
    folder = RunFolder(tmp_path)
    folder.config.write_text(f'[training]\ntested_weights = "{tested_weights}"\n')
    for epoch, accuracy in enumerate(accuracies, 1):
        line = {"epoch": epoch, "val_accuracy": accuracy, "val_loss": epoch / 10}
        append_json_line(folder.metrics, line)
    return folder


def test_a_standing_is_that_of_an_epoch(tmp_path):
    folder = run_with(tmp_path, [0.5, 0.7, 0.6, 0.9])
    assert standing_of(7, folder, 3, has_diverged=False) == Standing(7, 3, 0.7, 0.2)
    assert standing_of(7, folder, 9, has_diverged=False) == Standing(7, 4, 0.9, 0.4)
    # It had not diverged yet after epochs that it has finished.
    assert not standing_of(7, folder, 4, has_diverged=True).has_diverged
    assert standing_of(7, folder, 5, has_diverged=True).has_diverged


def test_a_standing_is_of_the_weights_that_would_be_tested(tmp_path):
    folder = run_with(tmp_path, [0.5, 0.7, 0.6], tested_weights="last")
    assert standing_of(0, folder, 3, has_diverged=False) == Standing(0, 3, 0.6, 0.3)


@pytest.mark.parametrize(("num_trials", "factor", "expected"), [(9, 3, 3), (8, 3, 2), (2, 3, 1)])
def test_so_many_go_on(num_trials, factor, expected):
    standings = [Standing(trial, 1, trial / 10, 1.0) for trial in range(num_trials)]
    assert survivors(standings, factor) == list(range(num_trials))[-expected:]


def test_nobody_goes_on_where_all_have_diverged():
    assert survivors([Standing(0, 0, None, None, has_diverged=True)] * 3, 3) == []
