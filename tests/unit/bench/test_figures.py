"""What all benchmarks share: environment, tables, files, rounds."""

import json

import pytest
from matplotlib.figure import Figure
from PIL import Image

from lockstep.bench.environment import environment, header
from lockstep.bench.figures import Page, publish_figures, spread_content
from lockstep.bench.rounds import take_turns
from lockstep.bench.spread import Spread, seconds_text
from lockstep.bench.tables import markdown_table, text_table
from lockstep.parallel.single import SingleProcess


def test_a_spread_is_the_middle_and_the_ends():
    assert Spread.of([3.0, 1.0, 9.0, 2.0]) == Spread(2.5, 1.0, 9.0)
    assert Spread.of([0.0012346]).text(1e3) == "1.23 (1.23 to 1.23)"
    assert spread_content([3.0, 1.0]) == {
        "rounds": [3.0, 1.0], "median": 2.0, "lowest": 1.0, "highest": 3.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ([0.0000004], "0.40 µs (0.40 to 0.40)"),
        ([0.00004812, 0.00004712, 0.001], "48.1 µs (47.1 to 1000.0)"),
        ([0.00099949], "999 µs (999 to 999)"),
        ([0.00123456], "1.23 ms (1.23 to 1.23)"),
        ([0.5], "500 ms (500 to 500)"),
        ([61.23], "61.2 s (61.2 to 61.2)"),
    ],
)
def test_seconds_are_told_in_the_unit_that_suits_them(seconds, text):
    assert Spread.of(seconds).seconds_text() == text
    assert seconds_text(Spread.of(seconds).median) == text.partition(" (")[0]


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


def test_versions_of_what_takes_part_are_told():
    told = environment(SingleProcess(), "", ["pytest", "no-such-package"])["versions"]
    assert told["pytest"] == pytest.__version__
    assert told["no-such-package"] == "none"


def test_all_take_turns_in_every_round():
    order = []

    def turn(name):
        order.append(name)
        return len(order)

    results = take_turns({"a": lambda: turn("a"), "b": lambda: turn("b")}, 3)
    assert "".join(order) == "ababab"
    assert results == {"a": [1, 3, 5], "b": [2, 4, 6]}


@pytest.fixture
def page(facts):
    note = """A note
        on two lines."""
    return Page("Title", facts, ["what", "how much"], [["this", "1"], ["that", "22"]], [note])


def test_a_page_holds_header_table_and_notes(page):
    markdown = page.markdown()
    assert markdown.startswith("# Title\n\n- Machine: A Processor, 2 cores")
    assert markdown.endswith("| this | 1 |\n| that | 22 |\n\nA note on two lines.\n")
    text = page.text()
    assert text.startswith("Machine   A Processor, 2 cores")
    assert text.endswith("this         1\nthat        22\n\nA note on two lines.")


def test_the_files_hold_the_same_as_the_terminal_is_told(page, facts, tmp_path, capsys):
    publish_figures(tmp_path, "speed", page, {"rounds": [1, 2]}, Figure())
    assert {path.name for path in tmp_path.iterdir()} == {"speed.json", "speed.md", "speed.png"}
    told = json.loads((tmp_path / "speed.json").read_text())
    assert told == {"environment": facts, "rounds": [1, 2]}
    assert (tmp_path / "speed.md").read_text() == page.markdown()
    with Image.open(tmp_path / "speed.png") as image:
        image.verify()
    assert capsys.readouterr().out == f"\n{page.text()}\n\nWrote {tmp_path}\n"
