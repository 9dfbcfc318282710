"""The scores as text, for the console."""

from collections.abc import Mapping
from typing import Any
from unicodedata import east_asian_width

from lockstep.report.classes import MANY_CLASSES, worst_first
from lockstep.report.labels import number, shorten

_NAME_WIDTH = 24
_NUM_WORST = 10
_COLUMNS = {"precision": ".4f", "recall": ".4f", "f1": ".4f", "support": "d"}


def scores_table(summary: Mapping[str, Any], where_all_are: str = "all are in the report") -> str:
    """Lay out precision, recall, F1 and support of each class as plain text.

    Of many classes only the worst are shown, which are what a reader would look for.

    Parameters
    ----------
    summary : mapping
        The content of `summary.json`.
    where_all_are : str
        What to say where only the worst classes are shown.

    Returns
    -------
    str
        A line for each class between a header and the macro average, without a newline at the
        end; above the header a line that says so where not all are shown. Empty when the run has
        no test results.
    """
    per_class = summary.get("per_class") or []
    if not per_class:
        return ""
    total = {
        "class": "macro average",
        "precision": "",
        "recall": "",
        "f1": summary.get("macro_f1"),
        "support": sum(line.get("support") or 0 for line in per_class),
    }
    note, shown = "", per_class
    if len(per_class) > MANY_CLASSES:
        note = f"{_NUM_WORST} of {len(per_class)} classes, the worst by F1; {where_all_are}\n"
        shown = worst_first(per_class)[:_NUM_WORST]
    header = {name: name for name in ("class", *_COLUMNS)}
    lines = [header, *shown, total]
    names = [shorten(line.get("class", ""), _NAME_WIDTH) for line in lines]
    width = max(map(_terminal_width, names))
    return note + "\n".join(
        name + " " * (width - _terminal_width(name)) + _numbers(line)
        for name, line in zip(names, lines, strict=True)
    )


def _numbers(line: Mapping[str, Any]) -> str:
    return "".join(f"{number(line.get(name), spec):>11}" for name, spec in _COLUMNS.items())


def _terminal_width(text: str) -> int:
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)
