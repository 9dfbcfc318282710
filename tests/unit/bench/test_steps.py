import numpy as np
import pytest

from lockstep.bench.apart import Apart
from lockstep.bench.case import with_steps
from lockstep.bench.made_up import made_up_dataset
from lockstep.bench.reduction import TINY_CASES, measure
from lockstep.bench.steps import StepTimes, mean_s
from lockstep.parallel.single import SingleProcess


class Rank1Of4(SingleProcess):
    """A rank that must not be asked for a sum, since the others aren't there."""

    rank, world_size = 1, 4

    def reduction(self, *arguments):
        raise AssertionError("the reduction of all ranks")


def test_apart_adds_up_nothing_but_a_ranks_own_virtual_ranks():
    ranks = Apart(Rank1Of4())
    assert (ranks.rank, ranks.world_size) == (1, 4)
    reduction = ranks.reduction("ordered", 10, [(2, 3), (3,)], np.float32, print)
    # Of 10 virtual ranks, 3 are those of rank 1: 2, 3 and 4.
    assert [leaves.shape for leaves in reduction.leaves] == [(3, 2, 3), (3, 3)]
    for group, leaves in enumerate(reduction.leaves):
        leaves[:] = np.arange(1, 4).reshape(3, *[1] * (leaves.ndim - 1)) * (group + 1)
        reduction.add(group)
    assert reduction.reduce_scatter().tolist() == [6] * 6 + [12] * 3
    assert reduction.all_gather().tolist() == [6] * 6 + [12] * 3
    assert reduction.own == [slice(0, 9)]


def test_the_groups_of_ranks_apart_are_apart():
    assert isinstance(Apart(SingleProcess()).first_ranks(1), Apart)
    assert Apart(SingleProcess()).first_ranks(0) is None


def test_what_happens_between_epochs_is_not_timed(monkeypatch):
    clock = iter([10.0, 11.0, 13.0, 100.0, 104.0])
    monkeypatch.setattr("lockstep.bench.steps.perf_counter", lambda: next(clock))
    times = StepTimes()
    times.epoch_begins(1, 2, 0)
    times.step_done()
    times.step_done()
    times.epoch_begins(2, 2, 0)
    times.step_done()
    assert times.seconds == [1.0, 2.0, 4.0]


def test_seconds_are_those_of_one_step(monkeypatch):
    clock = iter([100.0, 106.0])
    monkeypatch.setattr("lockstep.bench.steps.perf_counter", lambda: next(clock))
    asked_for = []
    assert mean_s(asked_for.append, 4) == 1.5
    assert asked_for == [4]


class Log(StepTimes):
    def __init__(self):
        super().__init__()
        self.made.append(self)

    made = []  # noqa: RUF012 - one for all


def test_every_kind_has_its_turn_in_every_round(monkeypatch):
    Log.made.clear()
    monkeypatch.setattr("lockstep.bench.steps.StepTimes", Log)
    case = TINY_CASES[0]
    with made_up_dataset() as dataset:
        measurement = measure(case, dataset, SingleProcess(), 2)
    assert measurement.network == "784-8-10"
    assert measurement.num_parameters == 785 * 8 + 9 * 10
    assert {kind: len(rounds) for kind, rounds in measurement.step_s.items()} == {
        "ordered": 2,
        "mpi": 2,
        "none": 2,
    }
    # Five steps to warm up come before those that count.
    assert [len(times.seconds) for times in Log.made] == [5 + case.num_steps] * 6
    expected = [sum(times.seconds[5:]) / case.num_steps for times in Log.made]
    in_turn = [rounds[turn] for turn in range(2) for rounds in measurement.step_s.values()]
    assert in_turn == pytest.approx(expected)


def test_the_data_set_is_gone_after_use():
    with made_up_dataset() as dataset:
        assert dataset.info.num_samples == {"train": 8192, "validation": 0, "test": 0}
        x, y = dataset.read("train", 0, 8192)
        assert x.shape == (8192, 784)
        assert set(y) == set(range(10))
        dataset.verify()
    assert not dataset.path.parent.exists()


def test_the_number_of_steps_can_be_given():
    assert [case.num_steps for case in with_steps(TINY_CASES, 3)] == [3, 3]
    assert with_steps(TINY_CASES, None) == list(TINY_CASES)
