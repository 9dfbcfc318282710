import json

import pytest
from PIL import Image

from lockstep.bench.environment import environment, header
from lockstep.bench.reduction_plot import step_times
from lockstep.bench.reduction_report import content, markdown, terminal_text, write
from lockstep.bench.spread import Spread
from lockstep.bench.tables import markdown_table, text_table
from lockstep.parallel.single import SingleProcess


def test_ratios_are_paired_by_round(measurements):
    one = measurements[0]
    assert one.ratios("ordered", "mpi") == pytest.approx([0.5, 0.5, 1.5])
    assert one.ratios("ordered", "none") == pytest.approx([2.0, 2.0, 1.5])
    # The ratio of the medians would have been 0.003 / 0.004.
    assert Spread.of(one.ratios("ordered", "mpi")).median == pytest.approx(0.5)


def test_a_spread_is_the_middle_and_the_ends():
    assert Spread.of([3.0, 1.0, 9.0, 2.0]) == Spread(2.5, 1.0, 9.0)
    assert Spread.of([0.0012346]).text(1e3) == "1.23 (1.23 to 1.23)"


def test_the_json_holds_every_round_and_what_was_made_of_them(measurements, facts):
    told = json.loads(json.dumps(content(measurements, facts)))
    assert told["environment"] == facts
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
    assert f"| {' | '.join(row)} |" in markdown(measurements, facts).splitlines()
    lines = terminal_text(measurements, facts).splitlines()
    assert " ".join(row) in [" ".join(line.split()) for line in lines]


def test_only_a_crowded_machine_is_told_of(measurements, facts):
    assert "more ranks than cores" in markdown(measurements, facts)
    assert "more ranks than cores" not in markdown(measurements[:1], facts)


def test_tables_are_aligned():
    header, rows = ("a", "number"), [("long", "1"), ("b", "10")]
    assert text_table(header, rows).splitlines() == ["a     number", "long       1", "b         10"]
    assert markdown_table(header, rows).splitlines() == [
        "| a | number |",
        "| --- | ---: |",
        "| long | 1 |",
        "| b | 10 |",
    ]


def test_the_header_tells_what_pins_the_kernels(facts):
    told = header(facts)
    assert told["Machine"] == "A Processor, 2 cores, Linux x86_64"
    assert told["Versions"] == "lockstep 0.1.0, numpy 2.0"
    assert told["MPI"] == "MPICH 4"
    assert told["BLAS"].endswith("OPENBLAS_CORETYPE Haswell, OPENBLAS_L2_SIZE not set")
    assert header({**facts, "nodes": 3})["Machine"].startswith("3 nodes of A Processor")


def test_the_environment_is_that_of_this_process(monkeypatch):
    monkeypatch.setenv("OPENBLAS_L2_SIZE", "512")
    told = environment(SingleProcess(), "lockstep bench reduction")
    assert told["nodes"] == 1
    assert told["versions"]["mpi"] == "none: single process"
    assert "OPENBLAS_L2_SIZE 512" in header(told)["BLAS"]


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


def test_all_files_are_written(measurements, facts, tmp_path):
    write(measurements[:1], facts, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "reduction.json",
        "reduction.md",
        "reduction.png",
    }
    assert json.loads((tmp_path / "reduction.json").read_text()) == content(measurements[:1], facts)
    with Image.open(tmp_path / "reduction.png") as image:
        image.verify()
