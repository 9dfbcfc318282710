"""Predictions as text: a table for people, JSON and CSV for programs."""

import csv
import io
import json
from collections.abc import Callable, Sequence

from lockstep.report.labels import shorten

Rows = Sequence[Sequence[float]]


def as_table(sources: Sequence[str], class_names: Sequence[str], outputs: Rows) -> str:
    """Lay out the predicted class of each sample, its probability and the runner-up.

    Parameters
    ----------
    sources : sequence of str
        Where each sample comes from.
    class_names : sequence of str
        One per class.
    outputs : sequence of sequence of float
        A row per sample, a probability per class.
    """
    lines = [("sample", "class", "probability", "runner-up")]
    for source, row in zip(sources, outputs, strict=True):
        first, second = sorted(range(len(row)), key=lambda index: -row[index])[:2]
        runner_up = f"{shorten(class_names[second], 24)} ({row[second]:.4f})"
        lines.append((source, shorten(class_names[first], 24), f"{row[first]:.4f}", runner_up))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    return "\n".join(
        f"{source:{widths[0]}}  {name:{widths[1]}}  {probability:>{widths[2]}}  {runner_up}"
        for source, name, probability, runner_up in lines
    )


def as_json(sources: Sequence[str], class_names: Sequence[str], outputs: Rows) -> str:
    """Write a list of objects with the keys source, class and probabilities."""
    return json.dumps(
        [
            {
                "source": source,
                "class": class_names[_largest(row)],
                "probabilities": dict(zip(class_names, row, strict=True)),
            }
            for source, row in zip(sources, outputs, strict=True)
        ],
        indent=2,
        ensure_ascii=False,
    )


def as_csv(sources: Sequence[str], class_names: Sequence[str], outputs: Rows) -> str:
    """Write a header and a line per sample: source, class and a probability per class."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["source", "class", *class_names])
    for source, row in zip(sources, outputs, strict=True):
        writer.writerow([source, class_names[_largest(row)], *row])
    return text.getvalue().rstrip("\n")


def _largest(row: Sequence[float]) -> int:
    return max(range(len(row)), key=row.__getitem__)


FORMATS: dict[str, Callable[[Sequence[str], Sequence[str], Rows], str]] = {
    "table": as_table,
    "json": as_json,
    "csv": as_csv,
}
