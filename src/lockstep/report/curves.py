"""What changed from epoch to epoch: loss, accuracy, learning rate, time."""

from math import ceil

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullFormatter,
    PercentFormatter,
    StrMethodFormatter,
)
from numpy.typing import NDArray

from lockstep.report import style
from lockstep.report.contents import Metrics, points

# Bottom to top, and the colour of each.
_PHASES = {
    "compute": style.BLUE,
    "reduce": style.VERMILION,
    "update": style.GREEN,
    "data": style.ORANGE,
    "evaluation": style.SKY,
    "other": style.PALE,
}
_WIDTH = 8.0
_MARKED_UP_TO = 40
# A loss that falls by more than this lies flat on a linear axis.
_LINEAR_UP_TO = 20
# More bars than this are narrower than pixels, and what is seen is the drawing's own pattern.
_MAX_BARS = 300


@style.styled
def learning_curves(metrics: Metrics) -> Figure:
    """Draw loss, accuracy and learning rate by epoch.

    Parameters
    ----------
    metrics : sequence of mapping
        One object per epoch. Without validation values there is no panel for accuracy.

    Returns
    -------
    Figure
        Panels below each other over one axis of epochs.
    """
    has_accuracy = len(points(metrics, "val_accuracy")[0]) > 0
    heights = [3.0, 2.4, 0.9] if has_accuracy else [3.0, 0.9]
    figure = Figure(figsize=(_WIDTH, sum(heights) + 0.9), layout="constrained")
    panels = figure.subplots(len(heights), sharex=True, height_ratios=heights)

    loss = panels[0]
    loss.set_title("Loss")
    _line(loss, metrics, "train_loss", style.BLUE, label="training")
    _line(loss, metrics, "val_loss", style.VERMILION, label="validation")
    _loss_axis(loss, metrics)
    if loss.lines:
        loss.legend(loc="upper right")

    if has_accuracy:
        panels[1].set_title("Validation accuracy")
        _line(panels[1], metrics, "val_accuracy", style.VERMILION)
        panels[1].yaxis.set_major_formatter(PercentFormatter(1.0))
        _limit(panels[1], points(metrics, "val_accuracy")[1], most=1.0, least_span=0.01)

    rate = panels[-1]
    rate.set_title("Learning rate")
    _line(rate, metrics, "lr", style.FAINT)
    _rate_axis(rate, metrics)
    _epoch_axis(rate, metrics)
    return figure


@style.styled
def correct_by_epoch(metrics: Metrics, best_epoch: int | None) -> Figure:
    """Draw the number of correctly classified validation samples by epoch.

    Parameters
    ----------
    metrics : sequence of mapping
        One object per epoch.
    best_epoch : int or None
        The epoch to mark.

    Returns
    -------
    Figure
        One line, its best point marked.
    """
    epochs, correct = points(metrics, "val_correct")
    total = int(points(metrics, "val_total")[1][-1])
    figure = Figure(figsize=(_WIDTH, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.set_title("Correctly classified validation samples by epoch")
    _line(axes, metrics, "val_correct", style.BLUE)
    axes.set_ylabel(f"correct of {total:,}")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    _limit(axes, correct, most=total, least_span=4)
    _epoch_axis(axes, metrics)

    for epoch, count in zip(epochs, correct, strict=True):
        if epoch == best_epoch:
            axes.plot([epoch], [count], "o", color=style.VERMILION, markersize=8)
            note = f"best: epoch {epoch}, {count:,.0f} / {total:,}"
            # Beside the title, where no curve can run through it.
            axes.set_title(note, loc="right", color=style.VERMILION, fontsize=9.5)
    return figure


def seconds_of_phases(metrics: Metrics) -> dict[str, NDArray[np.float64]]:
    """Return the seconds that each phase took, by epoch; what belongs to none is `other`.

    Parameters
    ----------
    metrics : sequence of mapping
        One object per epoch; those without a time are left out.
    """
    epochs, epoch_s = points(metrics, "epoch_s")
    seconds = {name: _seconds(metrics, epochs, f"{name}_s") for name in _PHASES if name != "other"}
    # Clocks are read one after another, so that the parts may add up to a hair more.
    seconds["other"] = np.maximum(epoch_s - sum(seconds.values()), 0)
    return seconds


@style.styled
def time_per_phase(metrics: Metrics) -> Figure:
    """Draw the seconds that each phase took, stacked, by epoch.

    Parameters
    ----------
    metrics : sequence of mapping
        One object per epoch.

    Returns
    -------
    Figure
        Filled steps, one for each phase, with the phase's share of the whole time; of many
        epochs the means of a few each.
    """
    epochs, epoch_s = points(metrics, "epoch_s")
    seconds = seconds_of_phases(metrics)
    whole = sum(float(part.sum()) for part in seconds.values())

    figure = Figure(figsize=(_WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    axes.set_title("Time per epoch")
    in_ms = float(epoch_s.max()) < 1
    unit_s = 1e-3 if in_ms else 1.0
    together = ceil(len(epochs) / _MAX_BARS)
    mean = f", mean of {together} epochs" if together > 1 else ""
    axes.set_ylabel(("milliseconds" if in_ms else "seconds") + mean)
    edges = np.append(epochs[::together] - 0.5, epochs[-1] + 0.5)
    tops = np.cumsum([_means(part, together) for part in seconds.values()], axis=0) / unit_s
    for order, (name, part) in enumerate(seconds.items()):
        share = float(part.sum()) / whole if whole else 0.0
        # Each from zero, the lower in front of the higher: where two of them only touched, the
        # white behind would shine through.
        axes.stairs(
            tops[order],
            edges,
            fill=True,
            color=_PHASES[name],
            label=f"{name}  {share:.1%}",
            zorder=2 - order / len(_PHASES),
        )
    axes.set_ylim(bottom=0)
    _epoch_axis(axes, metrics)
    axes.grid(visible=False, axis="x")
    # In the order of the stack; outside, because the stack fills the inside.
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), reverse=True)
    return figure


def _loss_axis(axes: Axes, metrics: Metrics) -> None:
    losses = points(metrics, "train_loss")[1]
    losses = losses[np.isfinite(losses) & (losses > 0)]
    fall = float(losses.max() / losses.min()) if len(losses) else 1.0
    if fall <= _LINEAR_UP_TO:
        axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log", nonpositive="mask")
    axes.set_ylabel("log scale")
    # Two decades have too few ticks of their own.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if fall < 1000 else (1,)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _rate_axis(axes: Axes, metrics: Metrics) -> None:
    """Let the ticks reach from zero to the peak."""
    peak = points(metrics, "lr")[1].max(initial=0.0)
    if peak > 0:
        ticks = MaxNLocator(3, steps=[1, 2, 3, 5, 10]).tick_values(0, peak)
        axes.set_yticks(ticks)
        axes.set_ylim(0, ticks[-1])
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _means(values: NDArray[np.float64], together: int) -> NDArray[np.float64]:
    """Return the mean of each `together` values; the last of those that are left."""
    starts = np.arange(0, len(values), together)
    means: NDArray[np.float64] = np.add.reduceat(values, starts) / np.diff([*starts, len(values)])
    return means


def _seconds(metrics: Metrics, epochs: NDArray[np.int64], key: str) -> NDArray[np.float64]:
    known = dict(zip(*points(metrics, key), strict=True))
    return np.array([known.get(epoch, 0.0) for epoch in epochs])


def _line(axes: Axes, metrics: Metrics, key: str, color: str, label: str | None = None) -> None:
    epochs, values = points(metrics, key)
    if len(epochs):
        marker = "o" if len(epochs) <= _MARKED_UP_TO else ""
        axes.plot(epochs, values, color=color, marker=marker, label=label, clip_on=False)


def _epoch_axis(axes: Axes, metrics: Metrics) -> None:
    axes.set_xlabel("epoch")
    axes.set_xlim(metrics[0]["epoch"] - 0.5, metrics[-1]["epoch"] + 0.5)
    axes.xaxis.set_major_locator(
        MaxNLocator(nbins=12, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    )


def _limit(axes: Axes, values: NDArray[np.float64], most: float, least_span: float) -> None:
    """Keep the axis from magnifying a flat line, and from going on where no value can be."""
    low, high = axes.get_ylim()
    if np.ptp(values) < least_span:
        low, high = min(low, values.max() - least_span), max(high, values.min())
    axes.set_ylim(max(low, -0.02 * most), min(high, most + 0.03 * (most - low)))
