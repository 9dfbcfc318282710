"""The figures of augmentation's cost as table, JSON and plot."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lockstep.bench.augmentation_measurement import PLAIN, AugmentationMeasurement
from lockstep.bench.augmentation_plot import costs_by_kind
from lockstep.bench.figures import Page, publish_figures, spread_content
from lockstep.bench.spread import Spread

_COLUMNS = ("network, batch", "augmentation", "step time", "longer by")
_NOTES = (
    """Training steps of one process with one thread and AdamW, on made-up images of 28 x 28 pixels.
    Step time: the mean over the steps of a round; median (lowest to highest) of the rounds. Longer
    by: the difference to the step without augmentation in the same round, as a part of it.""",
    """affine: shift by up to 1 pixel, rotation by 12 degrees, zoom by 0.15, shear by 10 degrees.
    elastic: strength 36, smoothness 6. noise: 0.1. erasing: in 0.3 of the images.""",
)


def publish(
    measurements: Sequence[AugmentationMeasurement], facts: dict[str, Any], folder: Path
) -> None:
    """Write `augmentation.json`, `augmentation.md` and `augmentation.png`, and tell the figures.

    Parameters
    ----------
    measurements : sequence of AugmentationMeasurement
        At least one.
    facts : dict
        See `lockstep.bench.environment`.
    folder : Path
        An existing one.
    """
    publish_figures(
        folder,
        "augmentation",
        page(measurements, facts),
        content(measurements),
        costs_by_kind(measurements),
    )


def content(measurements: Sequence[AugmentationMeasurement]) -> dict[str, Any]:
    """Return all there is to keep: every round, and what was made of them."""
    return {
        "measurements": [
            {
                **asdict(one),
                "step_s_spread": {kind: asdict(Spread.of(one.step_s[kind])) for kind in one.step_s},
                "costs": {kind: spread_content(one.costs(kind)) for kind in one.step_s},
            }
            for one in measurements
        ],
    }


def page(measurements: Sequence[AugmentationMeasurement], facts: dict[str, Any]) -> Page:
    """Return header, table and notes."""
    return Page(
        title="Cost of augmentation",
        facts=facts,
        columns=_COLUMNS,
        rows=[_cells(one, kind) for one in measurements for kind in one.step_s],
        notes=_NOTES,
    )


def _cells(one: AugmentationMeasurement, kind: str) -> list[str]:
    """Return a row; only the first one of a network names it."""
    is_plain = kind == PLAIN
    return [
        f"{one.network}, {one.global_batch_size}" if is_plain else "",
        kind,
        Spread.of(one.step_s[kind]).seconds_text(),
        "" if is_plain else Spread.of(one.costs(kind)).text(100, " %", 1),
    ]
