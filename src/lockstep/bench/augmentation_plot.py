"""The plot of augmentation's cost."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lockstep.bench.augmentation_measurement import PLAIN, AugmentationMeasurement
from lockstep.bench.plots import draw_rounds
from lockstep.bench.spread import Spread
from lockstep.report import style


@style.styled
def costs_by_kind(measurements: Sequence[AugmentationMeasurement]) -> Figure:
    """Draw by how much each kind of augmentation makes a step longer.

    Parameters
    ----------
    measurements : sequence of AugmentationMeasurement
        At least one.

    Returns
    -------
    Figure
        A panel for each network with a row for each kind: every round is a dot, and the median a
        bar through them.
    """
    kinds = [kind for kind in measurements[0].step_s if kind != PLAIN]
    size = 1.4 + 3.4 * len(measurements), 1.2 + 0.28 * len(kinds)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(measurements), squeeze=False, sharex=True, sharey=True)
    for one, axes in zip(measurements, panels.flat, strict=True):
        _draw(axes, one, kinds)
    panels[0, 0].set_yticks(range(len(kinds)), kinds)
    panels[0, 0].set_ylim(len(kinds) - 0.5, -0.5)
    panels[0, 0].xaxis.set_major_formatter(PercentFormatter(1.0))
    figure.supxlabel("longer than the step without augmentation", fontsize=9.5)
    return figure


def _draw(axes: Axes, one: AugmentationMeasurement, kinds: Sequence[str]) -> None:
    axes.set_title(f"{one.network}\nbatch {one.global_batch_size}", fontsize=10)
    axes.axvline(0.0, color=style.FAINT, linewidth=1)
    for place, kind in enumerate(kinds):
        costs = one.costs(kind)
        middle = Spread.of(costs).median
        draw_rounds(axes, costs, [place] * len(costs), style.BLUE)
        axes.plot([middle], [place], "|", color=style.BLUE, markersize=10, markeredgewidth=2)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
