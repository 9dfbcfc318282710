"""The figures of memory as tables, JSON and plot."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lockstep.bench.figures import Page, publish_figures, spread_content
from lockstep.bench.memory_measurement import MemoryMeasurement, slope
from lockstep.bench.memory_plot import memory_plot
from lockstep.bench.spread import Spread
from lockstep.data.memory import MEGABYTE

_DATA_COLUMNS = (
    "data set, MB",
    "rows",
    "peak, MB",
    "without imports, MB",
    "epoch",
    "epoch's s per GB",
)
_MODEL_COLUMNS = (
    "network",
    "parameters",
    "optimizer",
    "checkpoints",
    "peak, MB",
    "without imports, MB",
    "bytes per parameter",
)
_NOTES = (
    """Peak: the most resident memory of a process that trains as a single rank; megabytes of
    1,000,000 bytes, the median of the rounds. Without imports: what that is more than after Python
    and all packages have been loaded.""",
    """Without checkpoints, only the training itself is in the process; with them, it is a whole run
    with its folder, of which the root rank copies the state to save it.""",
)


def publish(
    data: Sequence[MemoryMeasurement],
    models: Sequence[MemoryMeasurement],
    facts: dict[str, Any],
    folder: Path,
) -> None:
    """Write `memory.json`, `memory.md` and `memory.png`, and tell the figures.

    Parameters
    ----------
    data, models : sequence of MemoryMeasurement
        By data size, of one network; and by network. At least one each.
    facts : dict
        See `lockstep.bench.environment`.
    folder : Path
        An existing one.
    """
    publish_figures(
        folder,
        "memory",
        page(data, models, facts),
        content(data, models),
        memory_plot(data, kinds(models)),
    )


def kinds(models: Iterable[MemoryMeasurement]) -> dict[str, list[MemoryMeasurement]]:
    """Return the networks by optimizer and whether they were saved, in words."""
    by_kind: dict[str, list[MemoryMeasurement]] = {}
    for one in models:
        name = f"{one.optimizer}, with checkpoints" if one.is_saved else one.optimizer
        by_kind.setdefault(name, []).append(one)
    return by_kind


def content(
    data: Sequence[MemoryMeasurement], models: Sequence[MemoryMeasurement]
) -> dict[str, Any]:
    """Return all there is to keep: every round, and what was made of them."""
    return {
        "data": [{**_content(one), "epoch_s": spread_content(one.epoch_s)} for one in data],
        "models": [
            {**_content(one), "bytes_per_parameter": one.bytes_per_parameter} for one in models
        ],
        "bytes_per_one_more_parameter": {name: slope(own) for name, own in kinds(models).items()},
    }


def _content(one: MemoryMeasurement) -> dict[str, Any]:
    return {**asdict(one), "peak_bytes": one.peak_bytes, "own_bytes": one.own_bytes}


def page(
    data: Sequence[MemoryMeasurement], models: Sequence[MemoryMeasurement], facts: dict[str, Any]
) -> Page:
    """Return header, tables and notes."""
    first = data[0]
    slopes = ", ".join(f"{name} {slope(own):.1f}" for name, own in kinds(models).items())
    return Page(
        title="Memory of a rank",
        facts=facts,
        columns=_DATA_COLUMNS,
        rows=[_data_cells(one) for one in data],
        details=[(_MODEL_COLUMNS, [_model_cells(one) for one in models])],
        notes=[
            *_NOTES,
            f"""Data: {first.network} at batch {first.global_batch_size}, memory_budget_mb
            {first.budget_bytes / MEGABYTE:g}. Data that fit into that are kept; others are read
            block by block, by another thread, and the epoch's time is that of reading and training
            at once. The files have just been written: the system may have them in its cache.""",
            f"""Models: a few steps at batch {models[0].global_batch_size} on
            {models[0].num_rows} rows. Bytes for one more parameter, by least squares over the
            networks: {slopes}.""",
        ],
    )


def _megabytes(num_bytes: float) -> str:
    return f"{num_bytes / MEGABYTE:.0f}"


def _data_cells(one: MemoryMeasurement) -> list[str]:
    spread = Spread.of(one.epoch_s)
    return [
        _megabytes(one.data_bytes),
        "block by block" if one.is_in_blocks else "kept",
        _megabytes(one.peak_bytes),
        _megabytes(one.own_bytes),
        spread.seconds_text(),
        f"{spread.median / one.data_bytes * 1e9:.2f}",
    ]


def _model_cells(one: MemoryMeasurement) -> list[str]:
    return [
        one.network,
        f"{one.num_parameters:,}",
        one.optimizer,
        "yes" if one.is_saved else "no",
        _megabytes(one.peak_bytes),
        _megabytes(one.own_bytes),
        f"{one.bytes_per_parameter:.1f}",
    ]
