"""What comes of a search: a table for people, one for programs, and plots."""

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from lockstep.files import atomic_path
from lockstep.search.spec import Spec
from lockstep.search.standings import Standing
from lockstep.search.trial import Trial
from lockstep.storage.run_folder import make_folder, read_json_lines

_MOST_SHOWN = 20


def report(
    spec: Spec, trials: Sequence[Trial], standings: Sequence[Standing], results: Path
) -> str:
    """Write `trials.csv` and the plots, and return the table as text.

    Parameters
    ----------
    spec : Spec
        What was searched.
    trials : sequence of Trial
        By number.
    standings : sequence of Standing
        The best first.
    results : Path
        The search's own folder.
    """
    fields = list(spec.space)
    header = ["trial", "epochs", "accuracy", "loss", *fields]
    rows = [_row(standing, [trials[standing.trial].options[name] for name in fields])
            for standing in standings]  # fmt: skip
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    with atomic_path(results / "trials.csv") as path:
        path.write_text(text.getvalue(), encoding="utf-8")
    # Slow to import, and not needed before.
    from lockstep.search.plots import draw_curves, draw_field  # noqa: PLC0415

    plots = results / "plots"
    make_folder(plots)
    curves = [
        [(line["epoch"], line["val_accuracy"]) for line in _lines(trials[standing.trial])]
        for standing in standings
    ]
    draw_curves(curves, [f"trial {one.trial}" for one in standings], plots / "curves.png")
    for name in fields:
        values = [trials[standing.trial].options[name] for standing in standings]
        draw_field(name, spec.space[name], values, standings, plots / f"{name}.png")
    return _table(header, rows[:_MOST_SHOWN], len(rows) - _MOST_SHOWN)


def _lines(trial: Trial) -> list[dict[str, float]]:
    return read_json_lines(trial.folder.metrics) if trial.folder.metrics.exists() else []


def _row(standing: Standing, values: Sequence[str]) -> list[str]:
    accuracy = "" if standing.accuracy is None else f"{standing.accuracy:.4f}"
    loss = "" if standing.loss is None else f"{standing.loss:.4f}"
    epochs = "diverged" if standing.has_diverged else str(standing.epochs)
    return [str(standing.trial), epochs, accuracy, loss, *values]


def _shown(cell: str) -> str:
    return cell or "(none)"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], num_more: int) -> str:
    lines = [header, *(list(map(_shown, row)) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    table = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
    return f"{table}\nand {num_more} more in trials.csv" if num_more > 0 else table
