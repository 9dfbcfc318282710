"""What comes of a search: a table for people, one for programs, and plots."""

import csv
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

from lockstep.search.spec import Spec
from lockstep.search.standings import Standing
from lockstep.search.trial import Trial
from lockstep.storage.run_folder import make_folder, read_json_lines, write_text

_MOST_SHOWN = 20
# Not the names of fields, which have columns too.
_COLUMNS = ("trial", "epochs_done", "val_accuracy", "val_loss")


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
    header = [*_COLUMNS, *fields]
    values = [[trials[one.trial].options[name] for name in fields] for one in standings]
    text = StringIO()
    rows = [[*_scores(one), *own] for one, own in zip(standings, values, strict=True)]
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    write_text(results / "trials.csv", text.getvalue())
    # Slow to import, and not needed before.
    from lockstep.search.plots import draw_curves, draw_field  # noqa: PLC0415

    plots = results / "plots"
    make_folder(plots)
    curves = [
        [
            (line["epoch"], line["val_accuracy"])
            for line in _lines(trials[standing.trial])
            if line["epoch"] <= standing.epochs
        ]
        for standing in standings
    ]
    draw_curves(curves, [f"trial {one.trial}" for one in standings], plots / "curves.png")
    for column, name in enumerate(fields):
        own = [row[column] for row in values]
        draw_field(name, spec.space[name], own, standings, plots / f"{name}.png")
    shown = [[*_short_scores(one), *own] for one, own in zip(standings, values, strict=True)]
    return _table(header, shown[:_MOST_SHOWN], len(shown) - _MOST_SHOWN)


def _lines(trial: Trial) -> list[dict[str, float]]:
    return read_json_lines(trial.folder.metrics) if trial.folder.metrics.exists() else []


def _scores(one: Standing) -> list[str]:
    """Return the first columns, all digits of them."""
    scores = ["" if score is None else str(score) for score in (one.accuracy, one.loss)]
    return [str(one.trial), "diverged" if one.has_diverged else str(one.epochs), *scores]


def _short_scores(one: Standing) -> list[str]:
    """Return the first columns as they are easily read."""
    accuracy = "" if one.accuracy is None else f"{one.accuracy:.2%}"
    loss = "" if one.loss is None else f"{one.loss:.4g}"
    return [*_scores(one)[:2], accuracy, loss]


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
