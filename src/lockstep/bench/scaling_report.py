"""The figures of scaling as tables, JSON and plot."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lockstep.bench.contestants import LOCKSTEP
from lockstep.bench.figures import Page, publish_figures, spread_content
from lockstep.bench.notes import notes_on_absent, notes_on_cores, ranks_cell
from lockstep.bench.scaling_measurement import DDP, PHASES, ScalingMeasurement
from lockstep.bench.scaling_plot import scaling_plot
from lockstep.bench.spread import Spread

_SUBJECT = ("network", "scaling", "ranks", "batch")
_COLUMNS = (
    *_SUBJECT,
    LOCKSTEP,
    "speed-up",
    DDP,
    "its speed-up",
    f"{DDP} / {LOCKSTEP}",
)
_PHASE_COLUMNS = (*_SUBJECT, *(f"{phase}, µs" for phase in PHASES))
_NOTES = (
    """Step time: the mean over the steps of a round, of the slowest rank; median (lowest to
    highest) of the rounds. Plain SGD, softmax with cross-entropy, float32, and as many virtual
    ranks as ranks; shuffled batches gathered out of rows of 784 features in memory.""",
    """Strong scaling: the same global batch on all numbers of ranks. Weak scaling: as many times
    the batch of one rank as there are ranks. Speed-up: samples per second, divided by those of one
    rank in the same round; so t(1) / t(p) in strong scaling and p t(1) / t(p) in weak scaling, and
    p at best in both. The last column is a ratio within each round.""",
    """Phases: a step of Lockstep on each rank, the median of the rounds. reduce: adding gradients
    between ranks, and gathering the update, without the waiting. wait: what each call of the
    reduction took longer than on the rank that came last to it. data: gathering and scaling the
    batch, and shuffling. other: what remains of a step.""",
)
_NOTE_ON_PEER = f"""{DDP}: DistributedDataParallel over Gloo with eager PyTorch, in the same
    processes, one thread each, with the same rows and local batches; on one rank, plain eager
    PyTorch."""
# Of so many ranks, each has its own figure in a cell.
_FEW = 4


def publish(
    measurements: Sequence[ScalingMeasurement], facts: dict[str, Any], folder: Path
) -> None:
    """Write `scaling.json`, `scaling.md` and `scaling.png`, and tell the figures.

    Parameters
    ----------
    measurements : sequence of ScalingMeasurement
        At least one.
    facts : dict
        See `lockstep.bench.environment`.
    folder : Path
        An existing one.
    """
    publish_figures(
        folder,
        "scaling",
        page(measurements, facts),
        content(measurements),
        scaling_plot(measurements),
    )


def content(measurements: Sequence[ScalingMeasurement]) -> dict[str, Any]:
    """Return all there is to keep: every round, and what was made of them."""
    return {
        "measurements": [
            {
                **asdict(one),
                "step_s_spread": {name: asdict(Spread.of(one.step_s[name])) for name in one.step_s},
                "speed_up": {name: spread_content(one.speed_ups(name)) for name in one.step_s},
                "times_as_long_as_lockstep": {
                    name: spread_content(one.ratios(name)) for name in one.step_s
                },
                "phase_s_by_rank": {phase: one.phase_by_rank(phase) for phase in PHASES},
            }
            for one in measurements
        ],
    }


def page(measurements: Sequence[ScalingMeasurement], facts: dict[str, Any]) -> Page:
    """Return header, tables and notes."""
    notes = list(_NOTES)
    if any(DDP in one.step_s for one in measurements):
        notes.append(_NOTE_ON_PEER)
    notes += notes_on_cores(one.is_crowded for one in measurements)
    notes += notes_on_absent(one.absent for one in measurements)
    return Page(
        title="Strong and weak scaling",
        facts=facts,
        columns=_COLUMNS,
        rows=[_cells(one) for one in measurements],
        notes=notes,
        details=[(_PHASE_COLUMNS, [_phase_cells(one) for one in measurements])],
    )


def _subject(one: ScalingMeasurement) -> list[str]:
    return [
        one.network,
        one.scaling,
        ranks_cell(one.num_ranks, is_crowded=one.is_crowded),
        str(one.global_batch_size),
    ]


def _cells(one: ScalingMeasurement) -> list[str]:
    own = [Spread.of(one.step_s[LOCKSTEP]).seconds_text(), _speed_up(one, LOCKSTEP)]
    if DDP not in one.step_s:
        return [*_subject(one), *own, "", "", ""]
    return [
        *_subject(one),
        *own,
        Spread.of(one.step_s[DDP]).seconds_text(),
        _speed_up(one, DDP),
        Spread.of(one.ratios(DDP)).text(),
    ]


def _speed_up(one: ScalingMeasurement, contestant: str) -> str:
    return "" if one.num_ranks == 1 else Spread.of(one.speed_ups(contestant)).text()


def _phase_cells(one: ScalingMeasurement) -> list[str]:
    return [*_subject(one), *(_by_rank(one.phase_by_rank(phase)) for phase in PHASES)]


def _by_rank(seconds: Sequence[float]) -> str:
    """Write the microseconds of each rank, or of many, those of the middle and the ends."""
    if len(seconds) > _FEW:
        return Spread.of(seconds).text(1e6, num_decimals=0)
    return " / ".join(f"{1e6 * one:.0f}" for one in seconds)
