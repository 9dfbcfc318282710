"""The plot of the comparison of times to an accuracy."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lockstep.bench.accuracy_measurement import THRESHOLDS, AccuracyMeasurement
from lockstep.bench.colors import color_of
from lockstep.report import style

# The axis begins so far below the lowest threshold: the first epochs matter little.
_BELOW = 0.015


@style.styled
def accuracy_by_time(measurement: AccuracyMeasurement) -> Figure:
    """Draw the validation accuracy by the time since the first step.

    Parameters
    ----------
    measurement : AccuracyMeasurement
        What was measured.

    Returns
    -------
    Figure
        A thin line for each training with a dot for each epoch, and a colour for each contestant.
    """
    figure = Figure(figsize=(8.0, 4.6), layout="constrained")
    axes = figure.subplots()
    axes.set_title(f"Validation accuracy, {measurement.network} on {measurement.data}")
    for name, curves in measurement.curves.items():
        for number, curve in enumerate(curves):
            axes.plot(
                curve.seconds,
                measurement.accuracies(curve),
                "o-",
                color=color_of(name),
                label="" if number else name,
                linewidth=0.9,
                markersize=2.5,
                alpha=0.7,
            )
    _draw_thresholds(axes)
    axes.set_xlabel("seconds since the first step, with an evaluation after each epoch")
    axes.set_xlim(left=0)
    lowest = min(min(measurement.accuracies(c)) for own in measurement.curves.values() for c in own)
    axes.set_ylim(bottom=max(lowest, THRESHOLDS[0] / 100 - _BELOW) - 0.001)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    axes.legend(loc="lower right")
    return figure


def _draw_thresholds(axes: Axes) -> None:
    for threshold in THRESHOLDS:
        axes.axhline(threshold / 100, color=style.INK, linewidth=1)
