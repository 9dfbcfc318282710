"""Speed-ups, waits and phases by hand-worked numbers, and how they are told."""

import numpy as np
import pytest

from lockstep.bench.case import Case
from lockstep.bench.figures import spread_content
from lockstep.bench.made_up import made_up_dataset
from lockstep.bench.peers.task import Samples
from lockstep.bench.scaling import Bench, points_of, share_of
from lockstep.bench.scaling_measurement import DDP, PHASES, ScalingMeasurement
from lockstep.bench.scaling_phases import split_up, waits
from lockstep.bench.scaling_plot import scaling_plot
from lockstep.bench.scaling_report import content, page
from lockstep.parallel.single import SingleProcess


def measurement(**changes):
    values = {
        "network": "784-8-10",
        "activation": "relu",
        "num_parameters": 6370,
        "scaling": "strong",
        "num_ranks": 2,
        "global_batch_size": 100,
        "one_rank_batch_size": 100,
        "is_crowded": False,
        "num_steps": {"Lockstep": 10, DDP: 3},
        # The machine is ten times as slow in the second round, and the ratios don't show it.
        "step_s": {"Lockstep": [0.001, 0.010, 0.001], DDP: [0.008, 0.080, 0.006]},
        "one_rank_step_s": {"Lockstep": [0.0015, 0.018, 0.002], DDP: [0.004, 0.040, 0.003]},
        "phase_s": {phase: [[1e-4, 2e-4], [2e-3, 3e-3], [3e-4, 1e-4]] for phase in PHASES},
        "absent": {},
    }
    return ScalingMeasurement(**{**values, **changes})


def test_strong_scaling_is_a_ratio_of_times_within_each_round():
    one = measurement()
    assert one.speed_ups("Lockstep") == pytest.approx([1.5, 1.8, 2.0])
    assert one.speed_ups(DDP) == pytest.approx([0.5, 0.5, 0.5])
    assert one.ratios(DDP) == pytest.approx([8.0, 8.0, 6.0])
    assert one.ratios("Lockstep") == [1.0, 1.0, 1.0]


def test_weak_scaling_counts_the_larger_batch():
    one = measurement(scaling="weak", global_batch_size=200)
    assert one.speed_ups("Lockstep") == pytest.approx([3.0, 3.6, 4.0])


def test_a_phase_of_each_rank_is_the_median_of_its_rounds():
    assert measurement().phase_by_rank("wait") == [3e-4, 2e-4]


def test_a_rank_waits_for_the_one_that_comes_last_to_a_call():
    # The second rank is late for the first call, the first one for the second, none for the third.
    call_s = np.array([[5.0, 1.0, 2.0], [1.0, 4.0, 2.0]])
    np.testing.assert_array_equal(waits(call_s), [4.0, 3.0])
    np.testing.assert_array_equal(waits(call_s[:1]), [0.0])


def test_the_time_of_a_step_is_divided_without_a_remainder():
    # compute, reduce, update, data, in all; four steps.
    spent = np.array([[4.0, 8.0, 1.0, 2.0, 16.0], [8.0, 4.0, 1.0, 2.0, 20.0]])
    phases = split_up(spent, np.array([6.0, 1.0]), num_steps=4)
    assert phases.step_s == 5.0
    assert phases.phase_s == {
        "compute": [1.0, 2.0],
        "reduce": [0.5, 0.75],
        "update": [0.25, 0.25],
        "data": [0.5, 0.5],
        "wait": [1.5, 0.25],
        "other": [0.25, 1.25],
    }
    total = np.sum(list(phases.phase_s.values()), axis=0)
    np.testing.assert_allclose(total, [4.0, 5.0])


def test_one_rank_is_measured_once_and_the_others_twice():
    case = Case((8,), 32)
    told = [
        (one.scaling, one.num_ranks, one.case.global_batch_size, one.one_rank_batch_size)
        for one in points_of(case, [4, 2])
    ]
    assert told == [
        ("both", 1, 32, 32),
        ("strong", 2, 32, 32), ("weak", 2, 64, 32),
        ("strong", 4, 32, 32), ("weak", 4, 128, 32),
    ]  # fmt: skip


def test_the_share_of_a_process_is_that_of_a_virtual_rank():
    with made_up_dataset(103) as dataset:
        samples = Samples.read(dataset, "train")
        _, strong, weak = points_of(Case((8,), 10), [3])
        shares = [share_of(strong.config, dataset, samples, rank) for rank in range(3)]
        sizes = [task.config.training.global_batch_size for task in shares]
        assert sum(sizes) == 10
        assert sum(len(task.samples.y) for task in shares) == 103
        stored, _ = dataset.read("train", 0, 103)
        np.testing.assert_allclose(
            np.vstack([task.samples.x for task in shares]), stored / 255, rtol=1e-6
        )
        larger = share_of(weak.config, dataset, samples, 0)
        assert larger.config.training.global_batch_size == 10


def test_whole_epochs_are_timed_on_one_rank():
    with made_up_dataset(96) as dataset:
        bench = Bench(SingleProcess(), dataset, None, {DDP: "it is away"})
        # Three steps are an epoch; the one to warm up doesn't count.
        (one,) = bench.measure(Case((8,), 32, num_steps=4), [1], num_rounds=2)
    assert one.num_steps == {"Lockstep": 6}
    assert one.step_s == one.one_rank_step_s
    assert one.absent == {DDP: "it is away"}
    for number, step_s in enumerate(one.step_s["Lockstep"]):
        assert sum(one.phase_s[phase][number][0] for phase in PHASES) == pytest.approx(step_s)
        assert one.phase_s["wait"][number] == [0.0]
        assert one.phase_s["compute"][number][0] > 0


def test_what_is_kept_has_every_round_and_what_was_made_of_it(facts):
    (told,) = content([measurement()])["measurements"]
    assert told["step_s"]["Lockstep"] == [0.001, 0.010, 0.001]
    assert told["speed_up"]["Lockstep"] == spread_content(measurement().speed_ups("Lockstep"))
    assert told["speed_up"]["Lockstep"]["median"] == pytest.approx(1.8)
    assert told["times_as_long_as_lockstep"][DDP]["lowest"] == pytest.approx(6.0)
    assert told["phase_s_by_rank"]["compute"] == [3e-4, 2e-4]
    # All of it can be drawn.
    assert len(scaling_plot([measurement(scaling="both", num_ranks=1), measurement()]).axes) == 2


def test_the_page_has_both_tables(facts):
    base = measurement(scaling="both", num_ranks=1, phase_s={p: [[1e-4]] * 3 for p in PHASES})
    text = page([base, measurement()], facts).text()
    assert "1.80 (1.50 to 2.00)" in text
    assert "8.00 (6.00 to 8.00)" in text
    assert "300 / 200" in text
    assert "DistributedDataParallel over Gloo" in text
    assert "more ranks than cores" not in text


def test_a_missing_peer_and_crowded_ranks_are_told(facts):
    alone = {"step_s": {"Lockstep": [0.001] * 3}, "one_rank_step_s": {"Lockstep": [0.002] * 3}}
    many = {phase: [[1e-4 * rank for rank in range(1, 10)]] * 3 for phase in PHASES}
    one = measurement(
        **alone, absent={DDP: "torch is away"}, is_crowded=True, num_ranks=9, phase_s=many
    )
    text = page([one], facts).text()
    assert f"Without {DDP}: torch is away." in text
    assert "9*" in text
    assert "more ranks than cores" in text
    assert "500 (100 to 900)" in text
    assert "DistributedDataParallel" not in text
