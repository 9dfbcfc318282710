import numpy as np
import pytest

from lockstep.report.labels import duration, number, shorten
from lockstep.report.tables import scores_table


def summary(names):
    per_class = [
        {"class": name, "precision": 0.5, "recall": 0.25, "f1": 1 / 3, "support": 12}
        for name in names
    ]
    return {"per_class": per_class, "macro_f1": 1 / 3}


def test_columns_are_aligned():
    assert scores_table(summary(["cat", "hippopotamus"])).splitlines() == [
        "class          precision     recall         f1    support",
        "cat               0.5000     0.2500     0.3333         12",
        "hippopotamus      0.5000     0.2500     0.3333         12",
        "macro average                           0.3333         24",
    ]


@pytest.mark.parametrize("num_classes", [2, 30])
def test_a_line_for_each_class(num_classes):
    lines = scores_table(summary(map(str, range(num_classes)))).splitlines()
    assert len(lines) == num_classes + 2
    assert len({len(line) for line in lines}) == 1


def test_of_many_classes_the_worst():
    many = summary(map(str, range(31)))
    for line, f1 in zip(many["per_class"], [0.5, None, *np.linspace(0.9, 0.1, 29)], strict=True):
        line["f1"] = f1
    note, header, *lines, average = scores_table(many).splitlines()
    assert note == "10 of 31 classes, the worst by F1; all are in the report"
    assert header.split()[0] == "class"
    assert [line.split()[0] for line in lines] == [str(index) for index in range(30, 20, -1)]
    assert average.split() == ["macro", "average", "0.3333", str(31 * 12)]
    assert "--json" in scores_table(many, "--json prints all").splitlines()[0]


def test_wide_characters_take_two_columns():
    lines = scores_table(summary(["猫", "cat"])).splitlines()
    assert len(lines[1]) == len(lines[2]) - 1


def test_missing_scores_are_dashes():
    per_class = [{"class": "a", "precision": None, "recall": 0.0, "f1": None, "support": 0}]
    line = scores_table({"per_class": per_class, "macro_f1": None}).splitlines()[1]
    assert line.split() == ["a", "–", "0.0000", "–", "0"]  # noqa: RUF001


def test_without_test_results_there_is_no_table():
    assert scores_table({}) == ""
    assert scores_table({"per_class": None}) == ""


def test_a_name_cannot_move_the_cursor():
    assert "\x1b" not in scores_table(summary(["\x1b[2Jcat"]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat", "cat"),
        ("two\nlines", "two lines"),
        ("twelve chars", "twelve chars"),
        ("a_long_name_number_10", "a_long_n…_10"),
        (7, "7"),
    ],
)
def test_shorten(name, expected):
    assert len(shorten(name, 12)) <= 12
    assert shorten(name, 12) == expected


def test_numbers_and_durations():
    assert number(0.5, ".1%") == "50.0%"
    assert number(None, ".1%") == "–"  # noqa: RUF001
    assert number("text", ".1%") == "text"
    assert number(value=True) == "True"
    assert duration(None) == "–"  # noqa: RUF001
    assert duration(0.1234) == "0.123 s"
    assert duration(59.96) == "60 s"
    assert duration(61) == "1 min 1 s"
    assert duration(7260) == "2 h 1 min"
