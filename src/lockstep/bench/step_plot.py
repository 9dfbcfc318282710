"""The plot of the comparison of step times."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

from lockstep.bench.colors import color_of
from lockstep.bench.contestants import LOCKSTEP
from lockstep.bench.plots import draw_rounds
from lockstep.bench.spread import Spread, seconds_text
from lockstep.bench.step_measurement import StepMeasurement
from lockstep.report import style

_NUM_COLUMNS = 3
_TICKS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
# Room for the texts on the left of the fastest and on the right of the slowest, as factors.
_LEFT, _RIGHT = 3.2, 4.0


@style.styled
def step_times(measurements: Sequence[StepMeasurement]) -> Figure:
    """Draw the step time of each contestant beside Lockstep's, by network.

    Parameters
    ----------
    measurements : sequence of StepMeasurement
        At least one.

    Returns
    -------
    Figure
        A panel for each network with a row for each contestant: every round is a dot on a
        logarithmic axis of multiples of Lockstep's time, the median a bar through them, and
        beside it stands the time itself.
    """
    contestants = list(dict.fromkeys(name for one in measurements for name in one.step_s))
    num_columns = min(_NUM_COLUMNS, len(measurements))
    num_rows = -(-len(measurements) // num_columns)
    height = 0.75 + 0.25 * len(contestants)
    size = 1.4 + 3.4 * num_columns, height * num_rows + 0.5
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True, sharey=True)
    for one, axes in zip(measurements, panels.flat, strict=False):
        _draw(axes, one, contestants)
    for axes in panels.flat[len(measurements) :]:
        axes.set_visible(False)
    _scale(panels[0, 0], measurements, contestants)
    figure.supxlabel("step time as a multiple of Lockstep's, log scale", fontsize=9.5)
    return figure


def _draw(axes: Axes, one: StepMeasurement, contestants: Sequence[str]) -> None:
    axes.set_title(f"{one.network}\n{one.activation}, batch {one.global_batch_size}", fontsize=10)
    axes.axvline(1.0, color=color_of(LOCKSTEP), linewidth=1)
    for place, name in enumerate(contestants):
        if name in one.step_s:
            _draw_contestant(axes, place, one, name)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def _draw_contestant(axes: Axes, place: int, one: StepMeasurement, name: str) -> None:
    ratios, color = one.ratios(name), color_of(name)
    spread = Spread.of(ratios)
    axes.plot([1.0, spread.median], [place] * 2, color=color, linewidth=1.2, alpha=0.5)
    draw_rounds(axes, ratios, [place] * len(ratios), color)
    axes.plot([spread.median], [place], "|", color=color, markersize=10, markeredgewidth=2)
    is_faster = spread.median < 1.0
    axes.annotate(
        seconds_text(Spread.of(one.step_s[name]).median),
        (spread.lowest if is_faster else spread.highest, place),
        xytext=(-6 if is_faster else 6, 0),
        textcoords="offset points",
        ha="right" if is_faster else "left",
        va="center",
        fontsize=style.SMALL,
    )


def _scale(axes: Axes, measurements: Sequence[StepMeasurement], contestants: Sequence[str]) -> None:
    """Set the axes that all panels share."""
    ratios = [ratio for one in measurements for name in one.step_s for ratio in one.ratios(name)]
    low, high = min(ratios) / _LEFT, max(ratios) * _RIGHT
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    axes.set_xticks([tick for tick in _TICKS if low <= tick <= high])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(range(len(contestants)), contestants)
    axes.set_ylim(len(contestants) - 0.5, -0.5)
