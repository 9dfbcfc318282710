import json

import pytest

from lockstep.bench.reduction_plot import step_times
from lockstep.bench.reduction_report import content, page, publish
from lockstep.bench.spread import Spread


def test_ratios_are_paired_by_round(measurements):
    one = measurements[0]
    assert one.ratios("ordered", "mpi") == pytest.approx([0.5, 0.5, 1.5])
    assert one.ratios("ordered", "none") == pytest.approx([2.0, 2.0, 1.5])
    # The ratio of the medians would have been 0.003 / 0.004.
    assert Spread.of(one.ratios("ordered", "mpi")).median == pytest.approx(0.5)


def test_the_json_holds_every_round_and_what_was_made_of_them(measurements):
    told = json.loads(json.dumps(content(measurements)))
    one = told["measurements"][1]
    assert (one["network"], one["num_ranks"], one["is_crowded"]) == ("784-8-10", 4, True)
    assert one["step_s"]["mpi"] == [0.004, 0.040, 0.002]
    assert one["ways"]["ordered"] == ["shared memory"] * 3
    assert one["step_s_spread"]["none"] == {"median": 0.002, "lowest": 0.001, "highest": 0.010}
    ratios = one["ratios"]["ordered/none"]
    assert ratios["rounds"] == pytest.approx([2.0, 2.0, 1.5])
    assert (ratios["median"], ratios["lowest"], ratios["highest"]) == pytest.approx((2, 1.5, 2))


def test_the_tables_hold_medians_and_ends(measurements, facts):
    row = [
        "784-8-10", "32", "4*", "3.00 (2.00 to 20.00)", "4.00 (2.00 to 40.00)",
        "2.00 (1.00 to 10.00)", "0.50 (0.50 to 1.50)", "2.00 (1.50 to 2.00)",
    ]  # fmt: skip
    assert page(measurements, facts).rows[1] == row


def test_only_a_crowded_machine_is_told_of(measurements, facts):
    assert "more ranks than cores" in page(measurements, facts).text()
    assert "more ranks than cores" not in page(measurements[:1], facts).text()


def test_the_plot_shows_every_round_and_the_medians(measurements):
    figure = step_times(measurements)
    times, others, ratios, _ = figure.axes
    assert times.get_title(loc="left") == "784-8-10, batch 32"
    assert others.get_title(loc="left") == "784-16-10, batch 32"
    heights = [line.get_ydata() for line in times.get_lines()]
    assert sorted(heights[0]) == pytest.approx([2, 3, 20])
    assert list(heights[1]) == pytest.approx([3, 3])
    assert [text.get_text() for text in ratios.get_xticklabels()] == [
        "2 ranks",
        "4 ranks,\nmore than cores",
    ]
    low, high = ratios.get_ylim()
    assert low * high == pytest.approx(1)
    assert low < 0.5


def test_the_figures_are_published(measurements, facts, tmp_path):
    publish(measurements, facts, tmp_path)
    told = json.loads((tmp_path / "reduction.json").read_text())
    assert told == {"environment": facts, **content(measurements)}
    assert (tmp_path / "reduction.md").read_text() == page(measurements, facts).markdown()
    assert (tmp_path / "reduction.png").exists()
