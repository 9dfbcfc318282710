"""Whole searches in one process."""

from dataclasses import replace

import pytest

from lockstep.data.dataset_file import DatasetFile
from lockstep.errors import SharedError
from lockstep.parallel.single import SingleProcess
from lockstep.search.spec import Spec, Sweep
from lockstep.search.standings import Standing
from lockstep.search.sweep import run_sweep
from lockstep.storage.run_folder import RunFolder, read_json_lines
from lockstep.train.record import RunRecord

GRID = Sweep("grid")


@pytest.fixture
def spec(digits_file):
    """Return a function that makes a spec."""

    def make(sweep=GRID, fixed=None, **space):
        own = {"data": str(digits_file), "hidden_widths": [8], "virtual_ranks": 2}
        return Spec(sweep, space, own | (fixed or {}))

    return make


def search(spec, folder):
    return run_sweep(spec, SingleProcess(), folder)


def epochs_of(folder, trial):
    path = RunFolder(folder / f"trial-{trial:04d}").metrics
    return [line["epoch"] for line in read_json_lines(path)]


def test_epochs_that_are_searched_are_all_trained(spec, tmp_path):
    standings = search(spec(epochs=[1, 4, 2]), tmp_path)
    assert {standing.trial: standing.epochs for standing in standings} == {0: 1, 1: 4, 2: 2}
    assert [len(epochs_of(tmp_path, trial)) for trial in range(3)] == [1, 4, 2]


def test_a_training_that_ends_early_can_be_the_best(spec, tmp_path):
    fixed = {"epochs": 20, "patience": 1}
    best, worst = search(spec(fixed=fixed, learning_rate=[1e-5, 0.02]), tmp_path)
    assert (best.trial, worst.trial) == (1, 0)
    assert best.accuracy > worst.accuracy
    # It is the shorter one, or this shows nothing.
    assert best.epochs < worst.epochs


def test_a_longer_search_ends_as_if_it_had_been_longer_from_the_start(spec, tmp_path):
    space = {"learning_rate": [3e-2, 1e-5, 1e-2, 2e-5], "seed": [0, 1]}
    whole = spec(Sweep("random", trials=6, min_epochs=1, factor=2), {"epochs": 3}, **space)
    short = replace(whole, sweep=replace(whole.sweep, trials=3))
    search(short, tmp_path / "grown")
    grown, fresh = (search(whole, tmp_path / name) for name in ("grown", "fresh"))
    assert grown == fresh
    assert [standing.rung for standing in fresh] == [2, 1, 1, 0, 0, 0]


def test_a_trial_whose_scores_could_not_be_written_is_gone_on_with(spec, tmp_path, monkeypatch):
    searched = spec(fixed={"epochs": 2}, learning_rate=[0.01])
    expected = search(searched, tmp_path / "whole")
    original = RunRecord.epoch_done

    def fail_in_the_last(self, result):
        if result.epoch == 2:
            raise OSError("No space left on device")
        original(self, result)

    with monkeypatch.context() as full_disk:
        full_disk.setattr(RunRecord, "epoch_done", fail_in_the_last)
        with pytest.raises(OSError, match="No space left"):
            search(searched, tmp_path / "own")
    # It has a checkpoint of its last step, but is not done.
    assert epochs_of(tmp_path / "own", 0) == [1]
    assert search(searched, tmp_path / "own") == expected
    assert epochs_of(tmp_path / "own", 0) == [1, 2]


def test_a_search_in_which_all_diverge_has_standings_all_the_same(spec, tmp_path):
    sweep = Sweep("grid", min_epochs=1)
    fixed = {"epochs": 3, "optimizer": "sgd"}
    standings = search(spec(sweep, fixed, learning_rate=[1e25, 1e26]), tmp_path)
    assert standings == [Standing(trial, 0, None, None, has_diverged=True) for trial in (0, 1)]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("epochs = 1", "epochs = 1\nglobal_batch_size = 77", "global_batch_size was None, now"),
        ("epochs = 1", "epochs = 2", "config.training.epochs was 1, now it is 2"),
    ],
)
def test_another_base_is_another_search(spec, tmp_path, before, after, words):
    base = tmp_path / "base.toml"
    base.write_text(f"[training]\n{before}\n")
    searched = spec(replace(GRID, config=str(base)), learning_rate=[0.01])
    search(searched, tmp_path / "own")
    base.write_text(f"[training]\n{after}\n")
    with pytest.raises(SharedError) as error:
        search(searched, tmp_path / "own")
    assert words in str(error.value)


def test_no_trial_reads_the_test_split(spec, tmp_path, monkeypatch):
    read = []

    def note(self, split, *arguments):
        read.append(split)
        return original(self, split, *arguments)

    original = DatasetFile.read
    monkeypatch.setattr(DatasetFile, "read", note)
    search(spec(fixed={"epochs": 2}, learning_rate=[0.01, 0.02]), tmp_path)
    assert set(read) == {"train", "validation"}
    assert not list(tmp_path.rglob("summary.json"))
