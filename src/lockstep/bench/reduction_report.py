"""The figures of the reduction's cost as table, JSON and plot."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lockstep.bench.figures import Page, publish_figures, spread_content
from lockstep.bench.notes import notes_on_cores, ranks_cell
from lockstep.bench.reduction_measurement import KINDS, RATIOS, Measurement
from lockstep.bench.reduction_plot import step_times
from lockstep.bench.spread import Spread

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


def publish(measurements: Sequence[Measurement], facts: dict[str, Any], folder: Path) -> None:
    """Write `reduction.json`, `reduction.md` and `reduction.png`, and tell the figures.

    Parameters
    ----------
    measurements : sequence of Measurement
        At least one.
    facts : dict
        See `lockstep.bench.environment`.
    folder : Path
        An existing one.
    """
    publish_figures(
        folder,
        "reduction",
        page(measurements, facts),
        content(measurements),
        step_times(measurements),
    )


def content(measurements: Sequence[Measurement]) -> dict[str, Any]:
    """Return all there is to keep: every round, and what was made of them."""
    return {
        "measurements": [
            {
                **asdict(one),
                "step_s_spread": {kind: asdict(Spread.of(one.step_s[kind])) for kind in KINDS},
                "ratios": {"/".join(pair): spread_content(one.ratios(*pair)) for pair in RATIOS},
            }
            for one in measurements
        ],
    }


def page(measurements: Sequence[Measurement], facts: dict[str, Any]) -> Page:
    """Return header, table and notes."""
    return Page(
        title="Cost of the ordered reduction",
        facts=facts,
        columns=_COLUMNS,
        rows=[_cells(one) for one in measurements],
        notes=[*_NOTES, *notes_on_cores(one.is_crowded for one in measurements)],
    )


def _cells(one: Measurement) -> list[str]:
    return [
        one.network,
        str(one.global_batch_size),
        ranks_cell(one.num_ranks, is_crowded=one.is_crowded),
        *(Spread.of(one.step_s[kind]).text(1e3) for kind in KINDS),
        *(Spread.of(one.ratios(*pair)).text() for pair in RATIOS),
    ]
