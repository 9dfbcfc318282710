"""The figures of a benchmark: one table as Markdown and for the terminal, one plot, one JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from matplotlib.figure import Figure

from lockstep.bench.environment import header
from lockstep.bench.spread import Spread
from lockstep.bench.tables import markdown_table, text_table
from lockstep.report.style import save
from lockstep.storage.run_folder import write_json, write_text


@dataclass(frozen=True)
class Page:
    """What a reader gets to see beside the plot.

    Parameters
    ----------
    title : str
        What was measured.
    facts : dict
        See `lockstep.bench.environment`.
    columns : sequence of str
        The table's header.
    rows : sequence of sequence of str
        Its cells.
    notes : sequence of str
        What the figures mean, a paragraph each; line breaks don't count.
    details : sequence of (columns, rows)
        More tables below the first one.
    """

    title: str
    facts: dict[str, Any]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    details: Sequence[tuple[Sequence[str], Sequence[Sequence[str]]]] = ()

    def markdown(self) -> str:
        """Return title, header, table and notes as Markdown."""
        about = "\n".join(f"- {title}: {text}" for title, text in header(self.facts).items())
        tables = [markdown_table(*table) for table in self._tables]
        return "\n\n".join([f"# {self.title}", about, *tables, *self._notes]) + "\n"

    def text(self) -> str:
        """Return the same for a terminal."""
        about = "\n".join(f"{title:10}{text}" for title, text in header(self.facts).items())
        tables = [text_table(*table) for table in self._tables]
        return "\n\n".join([about, *tables, "\n".join(self._notes)])

    @property
    def _tables(self) -> list[tuple[Sequence[str], Sequence[Sequence[str]]]]:
        return [(self.columns, self.rows), *self.details]

    @property
    def _notes(self) -> list[str]:
        return [" ".join(note.split()) for note in self.notes]


def publish_figures(
    folder: Path, name: str, page: Page, content: dict[str, Any], plot: Figure
) -> None:
    """Write `NAME.json`, `NAME.md` and `NAME.png`, and tell the table.

    Parameters
    ----------
    folder : Path
        An existing one.
    name : str
        Of the benchmark.
    page : Page
        For the Markdown and the terminal.
    content : dict
        All that was measured, by round, and what was made of it; the page's facts are added.
    plot : Figure
        The plot.
    """
    write_json(folder / f"{name}.json", {"environment": page.facts, **content})
    write_text(folder / f"{name}.md", page.markdown())
    save(plot, folder / f"{name}.png")
    click.echo(f"\n{page.text()}\n\nWrote {folder}")


def spread_content(values: Sequence[float]) -> dict[str, Any]:
    """Return the rounds of a measurement with their middle and ends, for JSON."""
    return {"rounds": list(values), **asdict(Spread.of(values))}
