"""The scores as text, for the console."""

from collections.abc import Mapping
from typing import Any
from unicodedata import east_asian_width

from lockstep.report.labels import number, shorten

_NAME_WIDTH = 24
_COLUMNS = {"precision": ".4f", "recall": ".4f", "f1": ".4f", "support": "d"}


def scores_table(summary: Mapping[str, Any]) -> str:
    """Lay out precision, recall, F1 and support of each class as plain text.

    Parameters
    ----------
    summary : mapping
        The content of `summary.json`.

    Returns
    -------
    str
        A line for each class between a header and the macro average, without a newline at the
        end; empty when the run has no test results.
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
    header = {name: name for name in ("class", *_COLUMNS)}
    lines = [header, *per_class, total]
    names = [shorten(line.get("class", ""), _NAME_WIDTH) for line in lines]
    width = max(map(_terminal_width, names))
    return "\n".join(
        name + " " * (width - _terminal_width(name)) + _numbers(line)
        for name, line in zip(names, lines, strict=True)
    )


def _numbers(line: Mapping[str, Any]) -> str:
    return "".join(f"{number(line.get(name), spec):>11}" for name, spec in _COLUMNS.items())


def _terminal_width(text: str) -> int:
    return sum(2 if east_asian_width(letter) in "WF" else 1 for letter in text)
