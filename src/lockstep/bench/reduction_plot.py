"""The plot of the reduction's cost."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, StrMethodFormatter

from lockstep.bench.plots import add_legends, draw_rounds
from lockstep.bench.reduction_measurement import KINDS, RATIOS, Measurement
from lockstep.bench.spread import Spread
from lockstep.report import style

_COLORS = {"ordered": style.BLUE, "mpi": style.VERMILION, "none": style.FAINT}
# Of the groups of one number of ranks, whose distance is 1.
_GROUP_WIDTH = 0.6
# The axis of ratios reaches at least this far; its ticks, and one over them.
_LEAST_RATIO = 2.0
_RATIO_TICKS = (1.0, 1.2, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 100.0)


@style.styled
def step_times(measurements: Sequence[Measurement]) -> Figure:
    """Draw step times, and below them the paired ratios, by network and number of ranks.

    Parameters
    ----------
    measurements : sequence of Measurement
        At least one.

    Returns
    -------
    Figure
        A column for each network. Every round is a dot, and the median a bar through them.
    """
    networks = list(dict.fromkeys(one.network for one in measurements))
    figure = Figure(figsize=(1.2 + 3.0 * len(networks), 6.4), layout="constrained")
    panels = figure.subplots(2, len(networks), squeeze=False, sharex="col")
    for network, times, ratios in zip(networks, *panels, strict=True):
        own = [one for one in measurements if one.network == network]
        _draw_times(times, own)
        _draw_ratios(ratios, own)
        _limit_ratios(ratios, measurements)
    panels[0, 0].set_ylabel("step time, ms")
    panels[1, 0].set_ylabel("ratio within a round, log scale")
    add_legends(figure, panels[0, 0], panels[1, 0], len(KINDS))
    return figure


def _draw_times(axes: Axes, own: Sequence[Measurement]) -> None:
    axes.set_title(f"{own[0].network}, batch {own[0].global_batch_size}")
    for place, kind in zip(_places(len(KINDS)), KINDS, strict=True):
        values = [[1e3 * step_s for step_s in one.step_s[kind]] for one in own]
        _draw_groups(axes, place, values, _COLORS[kind], kind)
    axes.set_ylim(bottom=0)
    axes.grid(visible=False, axis="x")


def _draw_ratios(axes: Axes, own: Sequence[Measurement]) -> None:
    axes.axhline(1.0, color=style.INK, linewidth=1)
    for place, pair in zip(_places(len(RATIOS)), RATIOS, strict=True):
        values = [one.ratios(*pair) for one in own]
        _draw_groups(axes, place, values, _COLORS[pair[1]], " / ".join(pair))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.2g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xticks(range(len(own)), [_ranks_text(one) for one in own])
    axes.set_xlim(-0.5, len(own) - 0.5)
    axes.grid(visible=False, axis="x")


def _limit_ratios(axes: Axes, measurements: Sequence[Measurement]) -> None:
    """Give all networks one axis with 1 in the middle, wide enough for noise to look small."""
    rounds = [ratio for one in measurements for pair in RATIOS for ratio in one.ratios(*pair)]
    furthest = 1.05 * max(_LEAST_RATIO, *rounds, 1 / min(rounds))
    axes.set_ylim(1 / furthest, furthest)
    ticks = [*(1 / tick for tick in _RATIO_TICKS), *_RATIO_TICKS]
    axes.set_yticks([tick for tick in ticks if 1 / furthest <= tick <= furthest])


def _draw_groups(
    axes: Axes, place: float, values: Sequence[Sequence[float]], color: str, label: str
) -> None:
    for group, rounds in enumerate(values):
        where = group + place
        draw_rounds(axes, [where] * len(rounds), rounds, color)
        middle = Spread.of(rounds).median
        axes.plot(
            [where - 0.08, where + 0.08], [middle] * 2, color=color, label="" if group else label
        )


def _places(number: int) -> list[float]:
    """Return the places of so many columns side by side, around zero."""
    return [_GROUP_WIDTH * ((index + 0.5) / number - 0.5) for index in range(number)]


def _ranks_text(one: Measurement) -> str:
    ranks = f"{one.num_ranks} rank{'s' * (one.num_ranks > 1)}"
    return f"{ranks},\nmore than cores" if one.is_crowded else ranks
