"""An epoch whose steps are all done need not be finished: a training can go on from there."""

import copy
from dataclasses import asdict, replace

import pytest

from lockstep.config import load_config
from lockstep.data.dataset_file import DatasetFile
from lockstep.parallel.single import SingleProcess
from lockstep.train.observers import Observer, Observers
from lockstep.train.requests import Requests
from lockstep.train.trainer import Trainer

STEPS_PER_EPOCH = 23
OPTIONS = {"virtual_ranks": "2", "epochs": "3", "hidden_widths": "6", "optimizer": "adam"}


class Memory(Observer):
    """Keeps a copy of the last checkpoint, and all epochs; fails at the end of one of them."""

    def __init__(self, failing_epoch=None):
        self.failing_epoch = failing_epoch
        self.snapshot = None
        self.steps = []
        self.epochs = []
        self.num_steps = 0

    def epoch_done(self, result):
        if result.epoch == self.failing_epoch:
            raise RuntimeError("nowhere to write")
        times = {name: 0.0 for name in asdict(result) if name.endswith("_s")}
        self.epochs.append(replace(result, **times))

    def step_done(self):
        self.num_steps += 1

    def checkpoint(self, snapshot):
        self.snapshot = copy.deepcopy(snapshot)
        self.steps.append((snapshot.progress["step"], snapshot.progress["epoch"]))

    def training_done(self, outcome):
        self.outcome = outcome


def train(digits_file, memory, snapshot=None, **options):
    config = load_config(None, OPTIONS | {"data": str(digits_file)} | options)
    with DatasetFile.open(digits_file) as dataset:
        trainer = Trainer(config, dataset, SingleProcess(), Observers([memory]), Requests())
        if snapshot is not None:
            trainer.restore(snapshot)
        try:
            return trainer.train()
        finally:
            # Nothing of the clock makes a difference.
            assert trainer.clock.phase in {"testing", "saving"}


def state(snapshot):
    progress = {name: value for name, value in snapshot.progress.items() if name != "spent_s"}
    optimizer = {name: values.tobytes() for name, values in snapshot.optimizer_state.items()}
    return snapshot.parameters.tobytes(), optimizer, progress, snapshot.is_best


@pytest.mark.parametrize("failing_epoch", [1, 2, 3])
@pytest.mark.parametrize("tested_weights", ["best", "last"])
def test_going_on_from_an_unfinished_epoch_only_finishes_it(
    digits_file, failing_epoch, tested_weights
):
    whole = Memory()
    assert train(digits_file, whole, tested_weights=tested_weights)

    first = Memory(failing_epoch)
    with pytest.raises(RuntimeError, match="nowhere to write"):
        train(digits_file, first, tested_weights=tested_weights)
    # All steps are done, the epoch is not, and its losses are still there.
    assert first.steps[-1] == (failing_epoch * STEPS_PER_EPOCH, failing_epoch - 1)
    assert first.snapshot.progress["loss_sum"] > 0
    assert first.num_steps == failing_epoch * STEPS_PER_EPOCH

    second = Memory()
    assert train(digits_file, second, first.snapshot, tested_weights=tested_weights)
    assert second.num_steps == (3 - failing_epoch) * STEPS_PER_EPOCH
    assert state(second.snapshot) == state(whole.snapshot)
    assert first.epochs + second.epochs == whole.epochs
    ends = [outcome.tested_parameters.tobytes() for outcome in (second.outcome, whole.outcome)]
    assert ends[0] == ends[1]
    assert second.outcome.examination.score == whole.outcome.examination.score
