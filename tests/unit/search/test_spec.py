"""Specs of a search, and what is drawn from them."""

from zlib import crc32

import numpy as np
import pytest

from lockstep.config import FIELDS
from lockstep.errors import UserError
from lockstep.search.spec import Range, Spec, Sweep

SPACE = {
    "learning_rate": Range(1e-4, 1e-1, "log"),
    "weight_decay": Range(0.0, 2.0),
    "global_batch_size": Range(3, 6),
    "hidden_widths": [[32], [64, 32]],
    "dropout": [[], [0.5]],
    "activation": ["relu", "tanh"],
}


def spec_of(text, tmp_path):
    path = tmp_path / "spec.toml"
    path.write_text(text)
    return Spec.load(path)


def test_a_spec_is_read(tmp_path):
    spec = spec_of(
        '[sweep]\nmethod = "random"\ntrials = 4\nmin_epochs = 2\n[fixed]\nepochs = 9\n[space]\n'
        'learning_rate = { low = 1e-4, high = 0.1, scale = "log" }\ndropout = [[], [0.5]]\n',
        tmp_path,
    )
    assert spec.sweep == Sweep("random", trials=4, min_epochs=2)
    assert spec.space == {"learning_rate": Range(1e-4, 0.1, "log"), "dropout": [[], [0.5]]}
    options = spec.options(spec.trials()[0])
    assert list(options) == ["epochs", "learning_rate", "dropout"]
    assert options["epochs"] == "9"


def test_a_grid_has_all_combinations_the_last_field_changing_fastest():
    spec = Spec(Sweep("grid"), {"epochs": [1, 2], "hidden_widths": [[], [8], [8, 4]]})
    assert [tuple(trial.values()) for trial in spec.trials()] == [
        ("1", ""), ("1", "8"), ("1", "8,4"), ("2", ""), ("2", "8"), ("2", "8,4"),
    ]  # fmt: skip


def test_draws_are_within_their_ranges_and_even():
    trials = Spec(Sweep("random", trials=2000), SPACE).trials()
    rates = np.log10([float(trial["learning_rate"]) for trial in trials])
    assert -4 <= rates.min() < -3.98
    assert -1.02 < rates.max() <= -1
    # Three decades, each with a third: 667, of which 4 standard deviations are 84.
    assert all(583 < ((rates >= low) & (rates < low + 1)).sum() < 751 for low in (-4, -3, -2))
    decays = np.array([float(trial["weight_decay"]) for trial in trials])
    assert 0 <= decays.min() < 0.01
    assert abs(decays.mean() - 1) < 4 * np.sqrt(4 / 12 / 2000)
    sizes = [trial["global_batch_size"] for trial in trials]
    counts = [sizes.count(size) for size in ("3", "4", "5", "6")]
    assert sum(counts) == 2000
    # 500 each; 4 standard deviations are 77.
    assert all(423 < count < 577 for count in counts)
    for name, choices in (("hidden_widths", {"32", "64,32"}), ("dropout", {"", "0.5"})):
        values = [trial[name] for trial in trials]
        assert set(values) == choices
        assert all(900 < values.count(choice) < 1100 for choice in choices)


def test_whole_numbers_are_even_in_their_logarithm():
    space = {"global_batch_size": Range(1, 4, "log")}
    trials = Spec(Sweep("random", trials=4000), space).trials()
    sizes = [int(trial["global_batch_size"]) for trial in trials]
    # Each has what is rounded to it, of log(4.5 / 0.5) = log 9 in all.
    for size, ratio in ((1, 3), (2, 5 / 3), (3, 7 / 5), (4, 9 / 7)):
        share = np.log(ratio) / np.log(9)
        assert abs(sizes.count(size) / 4000 - share) < 4 * np.sqrt(share * (1 - share) / 4000)


def test_no_two_fields_have_the_same_draws_and_they_never_change():
    assert len({crc32(name.encode()) for name in FIELDS}) == len(FIELDS)
    # Searches that there are go on with these.
    assert Spec(Sweep("random", trials=1), SPACE).trials() == [
        {
            "learning_rate": "0.003169", "weight_decay": "1.1", "global_batch_size": "5",
            "hidden_widths": "32", "dropout": "0.5", "activation": "relu",
        }
    ]  # fmt: skip


def test_a_trial_follows_from_seed_and_number_alone():
    few = Spec(Sweep("random", trials=5), SPACE).trials()
    assert Spec(Sweep("random", trials=9), SPACE).trials()[:5] == few
    assert Spec(Sweep("random", trials=5, seed=1), SPACE).trials() != few
    # Nor do other fields matter, or their order.
    some = {name: SPACE[name] for name in ("dropout", "learning_rate")}
    for own, all_of_it in zip(Spec(Sweep("random", trials=5), some).trials(), few, strict=True):
        assert own == {name: all_of_it[name] for name in some}


@pytest.mark.parametrize(
    ("min_epochs", "factor", "epochs", "expected"),
    [
        (0, 3, 18, [18]),
        (2, 3, 18, [2, 6, 18]),
        (2, 3, 20, [2, 6, 18, 20]),
        (5, 2, 5, [5]),
        (9, 2, 5, [5]),
        (1, 4, 100, [1, 4, 16, 64, 100]),
    ],
)
def test_rungs(min_epochs, factor, epochs, expected):
    sweep = Sweep("random", min_epochs=min_epochs, factor=factor)
    assert Spec(sweep, SPACE).rungs(epochs) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[sweep]\nmethod = "random"\n[space]\n', "[space] is empty"),
        ('[sweep]\nmethod = "bayes"\n[space]\nepochs = [1]\n', "sweep.method"),
        ('[sweep]\nmethod = "grid"\ntrails = 3\n[space]\nepochs = [1]\n', "trails"),
        ("[space]\nepochs = [1]\n", "sweep"),
        ('[sweep]\nmethod = "grid"\n[space]\nepoch = [1]\n', "did you mean epochs?"),
        ('[sweep]\nmethod = "grid"\n[space]\nepochs = []\n', "[space] epochs: it has no choices"),
        ('[sweep]\nmethod = "grid"\n[space]\ndata = ["a.h5"]\n', "nothing to search for"),
        ('[sweep]\nmethod = "grid"\n[space]\ntrace = [true]\n', "nothing to search for"),
        ('[sweep]\nmethod = "grid"\n[space]\nl2 = {low = 0, high = 1}\n', "a grid needs a list"),
        ('[sweep]\nmethod = "random"\n[space]\nl2 = {low = 1, high = 1}\n', "is not below"),
        (
            '[sweep]\nmethod = "random"\n[space]\nl2 = {low = 0, high = 1, scale = "log"}\n',
            "a logarithmic range begins above 0",
        ),
        (
            '[sweep]\nmethod = "random"\n[space]\nl2 = {low = 1, high = 2, scael = "log"}\n',
            "scael: no such entry in [space] l2; did you mean scale?",
        ),
        ('[sweep]\nmethod = "random"\n[space]\nl2 = 0.1\n', "[space] l2: Expected object | array"),
        (
            '[sweep]\nmethod = "random"\n[space]\nepochs = [1]\nl2 = {low = 0}\n',
            "[space] l2: Object missing required field high",
        ),
        ('[sweep]\nmethod = "random"\n[space]\nl2 = {low = 0, high = inf}\n', "'inf' won't do"),
        (
            '[sweep]\nmethod = "random"\n[space]\ninput_dropout = {low = 0, high = 1.5}\n',
            "'1.5' won't do",
        ),
        (
            '[sweep]\nmethod = "random"\n[space]\nseed = {low = 0.5, high = 3}\n',
            "its ends are whole numbers",
        ),
        # Whether or not a trial happens to draw it.
        (
            '[sweep]\nmethod = "random"\n[space]\nactivation = ["relu", "thanh"]\n',
            "did you mean tanh?",
        ),
        (
            '[sweep]\nmethod = "random"\n[space]\nactivation = {low = 0, high = 1}\n',
            "it is no number",
        ),
        (
            '[sweep]\nmethod = "grid"\n[fixed]\nl2 = 1\n[space]\nl2 = [0, 1]\n',
            "under [fixed] too",
        ),
        (
            '[sweep]\nmethod = "grid"\nmin_epochs = 1\n[space]\nepochs = [2, 3]\n',
            "it can't vary where min_epochs",
        ),
        (
            f'[sweep]\nmethod = "grid"\n[space]\nseed = {[*range(101)]}\nl2 = {[*range(101)]}\n',
            "The grid has 10201 trials",
        ),
    ],
)
def test_what_is_wrong_with_a_spec_is_told(tmp_path, text, words):
    with pytest.raises(UserError) as error:
        spec_of(text, tmp_path)
    assert words in str(error.value)
    assert "spec.toml" in str(error.value)
