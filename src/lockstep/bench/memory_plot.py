"""The plot of memory."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lockstep.bench.memory_measurement import MemoryMeasurement
from lockstep.bench.plots import draw_rounds
from lockstep.bench.spread import Spread
from lockstep.data.memory import MEGABYTE
from lockstep.report import style

_COLORS = (style.BLUE, style.VERMILION, style.GREEN, style.ORANGE)


@style.styled
def memory_plot(
    data: Sequence[MemoryMeasurement], models: Mapping[str, Sequence[MemoryMeasurement]]
) -> Figure:
    """Draw peak memory and epoch time against the data's size, and peak memory against the model's.

    Parameters
    ----------
    data : sequence of MemoryMeasurement
        By size.
    models : mapping of str to sequence of MemoryMeasurement
        By size, of each kind.

    Returns
    -------
    Figure
        Two panels. Every round is a dot, and lines join the medians.
    """
    figure = Figure(figsize=(11.0, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_data(left, data)
    right.set_title(f"Size of the model, batch {next(iter(models.values()))[0].global_batch_size}")
    for color, (name, own) in zip(_COLORS, models.items(), strict=False):
        sizes = [one.num_parameters / 1e6 for one in own]
        _draw_memory(right, sizes, own, color, name)
    right.set_xlabel("parameters, millions")
    right.legend()
    for axes in (left, right):
        axes.set_ylabel("peak resident memory, MB")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
    return figure


def _draw_data(axes: Axes, data: Sequence[MemoryMeasurement]) -> None:
    first = data[0]
    axes.set_title(f"Size of the data, {first.network}, batch {first.global_batch_size}")
    sizes = [one.data_bytes / MEGABYTE for one in data]
    _draw_memory(axes, sizes, data, style.BLUE, "peak memory")
    budget = first.budget_bytes / MEGABYTE
    axes.axvline(budget, color=style.FAINT, linewidth=1, linestyle="--")
    axes.set_xlabel("data set, MB; dashed: memory_budget_mb")
    seconds = axes.twinx()
    seconds.spines["right"].set_visible(True)
    seconds.grid(visible=False)
    seconds.plot(sizes, [Spread.of(one.epoch_s).median for one in data], color=style.VERMILION)
    for size, one in zip(sizes, data, strict=True):
        draw_rounds(seconds, [size] * len(one.epoch_s), one.epoch_s, style.VERMILION)
    seconds.set_ylim(bottom=0)
    seconds.set_ylabel("epoch, s")
    lines = [Line2D([], [], color=color) for color in (style.BLUE, style.VERMILION)]
    axes.legend(lines, ["peak memory", "time of an epoch (right axis)"])


def _draw_memory(
    axes: Axes, sizes: Sequence[float], own: Sequence[MemoryMeasurement], color: str, label: str
) -> None:
    axes.plot(sizes, [one.peak_bytes / MEGABYTE for one in own], color=color, label=label)
    for size, one in zip(sizes, own, strict=True):
        peaks = [use.peak_bytes / MEGABYTE for use in one.uses]
        draw_rounds(axes, [size] * len(peaks), peaks, color)
