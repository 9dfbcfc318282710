"""The figures of the reduction's cost as table, JSON and plot."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lockstep.bench.environment import header
from lockstep.bench.measurement import KINDS, RATIOS, Measurement
from lockstep.bench.reduction_plot import step_times
from lockstep.bench.spread import Spread
from lockstep.bench.tables import markdown_table, text_table
from lockstep.report.style import save
from lockstep.storage.run_folder import write_json, write_text

_COLUMNS = (
    "network",
    "batch",
    "ranks",
    *(f"{kind}, ms" for kind in KINDS),
    *(" / ".join(pair) for pair in RATIOS),
)
_NOTES = (
    """Time of a training step with AdamW and as many virtual ranks as ranks: the mean over the
    steps of a round, of the slowest rank. Median (lowest to highest) of the rounds; ratios are
    taken within each round.""",
    """ordered: the sum in the tree's order, and each rank makes a part of the update. mpi: the MPI
    library's sum, and each rank makes the whole update. none: no sum; each rank has its share of
    the batch to itself, and makes the whole update. So ordered may take less time than none.""",
    """With 1 rank there is nothing to add between ranks, and all three are the same code: the
    ratios show the noise.""",
)
_NOTE_ON_CORES = "*: more ranks than cores, so every step also waits for a core."


def write(measurements: Sequence[Measurement], facts: dict[str, Any], folder: Path) -> None:
    """Write `reduction.json`, `reduction.md` and `reduction.png` to a folder.

    Parameters
    ----------
    measurements : sequence of Measurement
        At least one.
    facts : dict
        See `lockstep.bench.environment`.
    folder : Path
        An existing one.
    """
    write_json(folder / "reduction.json", content(measurements, facts))
    write_text(folder / "reduction.md", markdown(measurements, facts))
    save(step_times(measurements), folder / "reduction.png")


def content(measurements: Sequence[Measurement], facts: dict[str, Any]) -> dict[str, Any]:
    """Return all there is to keep: environment, every round, and what was made of them."""
    return {
        "environment": facts,
        "measurements": [
            {
                **asdict(one),
                "step_s_spread": {kind: asdict(Spread.of(one.step_s[kind])) for kind in KINDS},
                "ratios": {"/".join(pair): _ratio_content(one.ratios(*pair)) for pair in RATIOS},
            }
            for one in measurements
        ],
    }


def _ratio_content(ratios: list[float]) -> dict[str, Any]:
    return {"rounds": ratios, **asdict(Spread.of(ratios))}


def markdown(measurements: Sequence[Measurement], facts: dict[str, Any]) -> str:
    """Return header, table and notes as Markdown."""
    about = "\n".join(f"- {title}: {text}" for title, text in header(facts).items())
    table = markdown_table(_COLUMNS, [_cells(one) for one in measurements])
    notes = "\n\n".join(_notes(measurements))
    return f"# Cost of the ordered reduction\n\n{about}\n\n{table}\n\n{notes}\n"


def terminal_text(measurements: Sequence[Measurement], facts: dict[str, Any]) -> str:
    """Return the same for a terminal."""
    about = "\n".join(f"{title:10}{text}" for title, text in header(facts).items())
    table = text_table(_COLUMNS, [_cells(one) for one in measurements])
    return "\n\n".join([about, table, "\n".join(_notes(measurements))])


def _notes(measurements: Sequence[Measurement]) -> list[str]:
    is_crowded = any(one.is_crowded for one in measurements)
    notes = [*_NOTES, _NOTE_ON_CORES] if is_crowded else _NOTES
    return [" ".join(note.split()) for note in notes]


def _cells(one: Measurement) -> list[str]:
    return [
        one.network,
        str(one.global_batch_size),
        f"{one.num_ranks}{'*' if one.is_crowded else ''}",
        *(Spread.of(one.step_s[kind]).text(1e3) for kind in KINDS),
        *(Spread.of(one.ratios(*pair)).text() for pair in RATIOS),
    ]
