"""The plot of scaling."""

from collections.abc import Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lockstep.bench.contestants import LOCKSTEP
from lockstep.bench.plots import add_legends, draw_rounds
from lockstep.bench.scaling_measurement import (
    DDP,
    PHASES,
    STRONG,
    WEAK,
    ScalingMeasurement,
)
from lockstep.bench.spread import Spread
from lockstep.report import style

_COLORS = {LOCKSTEP: style.BLUE, DDP: style.VERMILION}
_LINES = {STRONG: "-", WEAK: ":"}
_PHASE_COLORS = dict(
    zip(
        PHASES,
        (style.BLUE, style.VERMILION, style.GREEN, style.ORANGE, style.GREY, style.PALE),
        strict=True,
    )
)
_BAR_WIDTH = 0.7


@style.styled
def scaling_plot(measurements: Sequence[ScalingMeasurement]) -> Figure:
    """Draw speed-ups against ranks, and below them where the time of a step goes.

    Parameters
    ----------
    measurements : sequence of ScalingMeasurement
        At least one.

    Returns
    -------
    Figure
        A column for each network and batch size. Every round is a dot, and lines join the medians;
        the bars are means over the ranks.
    """
    columns: dict[tuple[str, int], list[ScalingMeasurement]] = {}
    for one in measurements:
        columns.setdefault((one.network, one.one_rank_batch_size), []).append(one)
    figure = Figure(figsize=(1.2 + 3.0 * len(columns), 7.0), layout="constrained")
    panels = figure.subplots(2, len(columns), squeeze=False)
    for own, speed_ups, phases in zip(columns.values(), *panels, strict=True):
        _draw_speed_ups(speed_ups, own)
        _draw_phases(phases, own)
    panels[0, 0].set_ylabel("speed-up over one rank")
    panels[1, 0].set_ylabel("Lockstep's step, ms, mean of the ranks")
    add_legends(figure, panels[0, 0], panels[1, 0], len(PHASES))
    return figure


def _draw_speed_ups(axes: Axes, own: Sequence[ScalingMeasurement]) -> None:
    axes.set_title(f"{own[0].network}\n{own[0].activation}, batch {own[0].one_rank_batch_size}")
    counts = sorted({one.num_ranks for one in own})
    axes.plot(counts, counts, color=style.FAINT, linewidth=1, label="ideal")
    for contestant in _COLORS:
        for scaling in _LINES:
            points = [one for one in own if one.scaling == scaling and contestant in one.step_s]
            if points:
                _draw_line(axes, points, contestant, scaling)
    axes.set_xticks(counts)
    axes.set_xlabel("ranks")
    axes.set_ylim(bottom=0)


def _draw_line(
    axes: Axes, points: Sequence[ScalingMeasurement], contestant: str, scaling: str
) -> None:
    color = _COLORS[contestant]
    medians = [Spread.of(one.speed_ups(contestant)).median for one in points]
    axes.plot(
        [1, *(one.num_ranks for one in points)],
        [1.0, *medians],
        _LINES[scaling],
        color=color,
        label=f"{contestant}, {scaling}",
    )
    for one in points:
        rounds = one.speed_ups(contestant)
        draw_rounds(axes, [one.num_ranks] * len(rounds), rounds, color)


def _draw_phases(axes: Axes, own: Sequence[ScalingMeasurement]) -> None:
    bottoms = [0.0] * len(own)
    for phase, color in _PHASE_COLORS.items():
        heights = [1e3 * fmean(one.phase_by_rank(phase)) for one in own]
        axes.bar(range(len(own)), heights, _BAR_WIDTH, bottom=bottoms, color=color, label=phase)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    axes.set_xticks(range(len(own)), [_name(one) for one in own])
    axes.grid(visible=False, axis="x")


def _name(one: ScalingMeasurement) -> str:
    crowded = ",\nmore than\ncores" if one.is_crowded else ""
    if one.num_ranks == 1:
        return f"1 rank{crowded}"
    return f"{one.num_ranks} ranks,\n{one.scaling}{crowded}"
