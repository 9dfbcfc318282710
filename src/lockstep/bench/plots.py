"""What the plots of several benchmarks share."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def draw_rounds(axes: Axes, x: Sequence[float], y: Sequence[float], color: str) -> None:
    """Draw a dot for each round, through which those behind it can be seen."""
    axes.plot(x, y, "o", color=color, alpha=0.35, markeredgewidth=0)


def add_legends(figure: Figure, upper: Axes, lower: Axes, num_columns: int) -> None:
    """Put the legend of the upper row of panels above them, and that of the lower row below.

    Parameters
    ----------
    figure : Figure
        With two rows of panels.
    upper, lower : Axes
        A panel of each row, whose entries are those of the row.
    num_columns : int
        Of each legend.
    """
    # Beside the panels, where there is nothing to cover.
    entries = upper.get_legend_handles_labels()
    figure.legend(*entries, loc="outside upper center", ncols=num_columns)
    entries = lower.get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=num_columns)
