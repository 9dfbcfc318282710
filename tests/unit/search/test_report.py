"""What comes of a search."""

import csv

from lockstep.bench.made_up import made_up_dataset
from lockstep.config import FIELDS, Config
from lockstep.search.report import report
from lockstep.search.spec import Spec, Sweep
from lockstep.search.standings import Standing
from lockstep.search.trial import Trial


def test_fields_that_are_searched_have_columns_of_their_own(tmp_path):
    space = {"epochs": [1, 30], "loss": ["quadratic"]}
    spec = Spec(Sweep("grid"), space)
    with made_up_dataset(10) as dataset:
        info = dataset.info
    trials = [
        Trial(number, options, Config(), info, 1, tmp_path)
        for number, options in enumerate(spec.trials())
    ]
    standings = [Standing(1, 4, 2 / 3, 1e30), Standing(0, 1, None, None, has_diverged=True)]
    told = report(spec, trials, standings, tmp_path)
    with (tmp_path / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert not {"trial", "epochs_done", "val_accuracy", "val_loss"} & set(FIELDS)
    # All digits are kept for programs.
    assert rows[0] == {
        "trial": "1", "epochs_done": "4", "val_accuracy": str(2 / 3), "val_loss": "1e+30",
        "epochs": "30", "loss": "quadratic",
    }  # fmt: skip
    assert (rows[1]["epochs_done"], rows[1]["epochs"], rows[1]["val_loss"]) == ("diverged", "1", "")
    assert told.splitlines()[1].split() == ["1", "4", "66.67%", "1e+30", "30", "quadratic"]
