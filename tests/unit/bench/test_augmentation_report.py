import json

import pytest

from lockstep.bench.augmentation_measurement import AugmentationMeasurement
from lockstep.bench.augmentation_plot import costs_by_kind
from lockstep.bench.augmentation_report import content, page


@pytest.fixture
def one():
    return AugmentationMeasurement(
        network="784-8-10",
        num_parameters=6370,
        global_batch_size=32,
        num_steps=10,
        # The whole machine is slow in the second round, and the costs don't show it.
        step_s={"none": [0.010, 0.100, 0.010], "shift": [0.011, 0.120, 0.014]},
    )


def test_costs_are_taken_within_each_round(one):
    assert one.costs("shift") == pytest.approx([0.1, 0.2, 0.4])
    assert one.costs("none") == [0.0, 0.0, 0.0]


def test_the_table_names_a_network_once_and_costs_in_percent(one, facts):
    assert page([one], facts).rows == [
        ["784-8-10, 32", "none", "10.0 ms (10.0 to 100.0)", ""],
        ["", "shift", "14.0 ms (11.0 to 120.0)", "20.0 % (10.0 to 40.0)"],
    ]


def test_the_json_holds_every_round_and_what_was_made_of_them(one):
    (told,) = json.loads(json.dumps(content([one])))["measurements"]
    assert told["step_s"]["shift"] == [0.011, 0.120, 0.014]
    assert told["costs"]["shift"]["rounds"] == pytest.approx([0.1, 0.2, 0.4])
    assert told["costs"]["shift"]["median"] == pytest.approx(0.2)


def test_the_plot_has_a_row_for_each_kind_but_none(one):
    (axes,) = costs_by_kind([one, one]).axes[:1]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["shift"]
    dots = next(line for line in axes.get_lines() if line.get_marker() == "o")
    assert list(dots.get_xdata()) == pytest.approx([0.1, 0.2, 0.4])
