"""How well each class was told apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter
from numpy.typing import NDArray

from lockstep.report import style
from lockstep.report.classes import MANY_CLASSES, worst_first
from lockstep.report.labels import name_of, shorten

# A number takes this part of the font size per digit, DejaVu Sans's width, and as much again
# as one digit for the air around it.
_DIGIT_WIDTH = 0.64
_NAME_WIDTH = 18
# Up to here, a zero in a cell of the matrix is as welcome as a number; above, it is noise.
_ZEROS_UP_TO = 20
# A ring around a diamond that a bar runs through: all three are seen where they are equal.
_SCORES: dict[str, dict[str, Any]] = {
    "precision": {
        "color": style.BLUE,
        "marker": "o",
        "markersize": 10,
        "markerfacecolor": "none",
        "markeredgewidth": 1.5,
    },
    "recall": {"color": style.ORANGE, "marker": "D", "markersize": 5.5, "markeredgewidth": 0},
    "f1": {"color": style.INK, "marker": "|", "markersize": 13, "markeredgewidth": 1.3},
}
# Where the axis of scores may begin: few places, so that plots of two runs can be compared.
_AXIS_BEGINS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98)
# Figures wider than this, in inches, are shown scaled down, and so have larger titles and labels.
_FULL_SIZE = 8.0


@style.styled
def confusion_matrix(matrix: Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """Draw a confusion matrix with its counts.

    Right and wrong have a colour and a scale each: one scale for both would leave the few errors
    of a good network white.

    Parameters
    ----------
    matrix : sequence of sequence of int
        Counts; rows are true classes, columns predicted ones.
    class_names : sequence of str
        The names of the classes; one without a name is shown as its index.

    Returns
    -------
    Figure
        As large as its counts need to be read.
    """
    counts = np.array(matrix, dtype=np.int64)
    num_classes = len(counts)
    names = [shorten(name_of(row, class_names), _NAME_WIDTH) for row in range(num_classes)]
    font = float(np.interp(num_classes, [10, 40, 100], [9.5, 7.5, 6]))
    cell = _cell_inches(counts, font)
    side = num_classes * cell
    scale = max(side / _FULL_SIZE, 1.0)
    # As large as the rows let them be.
    label_font = max(font, min(9.5 * scale, 0.75 * cell * style.POINTS_PER_INCH))
    longest = max(map(len, names)) * _DIGIT_WIDTH * label_font / style.POINTS_PER_INCH
    upright = longest > cell
    width = side + longest + 0.5 * scale
    height = side + (longest if upright else 0.2) + 0.8 * scale

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title("Confusion matrix, test split", fontsize=11 * scale)
    shades = _shades(counts)
    axes.imshow(shades)
    _count_cells(axes, counts, shades, font)

    axes.set_xticks(range(num_classes), names, fontsize=label_font, rotation=90 if upright else 0)
    axes.set_yticks(range(num_classes), names, fontsize=label_font)
    axes.set_xlabel("predicted class", fontsize=9.5 * scale)
    axes.set_ylabel("true class", fontsize=9.5 * scale)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    _cell_borders(axes, num_classes)
    return figure


@style.styled
def per_class_scores(per_class: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw precision, recall and F1 of every class.

    Parameters
    ----------
    per_class : sequence of mapping
        The scores of each class, in the order of the classes.

    Returns
    -------
    Figure
        A row of marks for each class, as tall as that takes; of many classes the worst are on top.
    """
    title = "Scores by class"
    if len(per_class) > MANY_CLASSES:
        per_class = worst_first(per_class)
        title += ", the lowest F1 first"
    rows = np.arange(len(per_class))
    values = {name: _scores(per_class, name) for name in _SCORES}
    together = np.array(list(values.values()))
    figure = Figure(figsize=(7.5, 1.5 + 0.24 * max(len(rows), 4)), layout="constrained")
    axes = figure.subplots()

    # A class without scores, one that never occurred, has a row without marks.
    axes.hlines(rows, together.min(axis=0), together.max(axis=0), color=style.GREY, linewidth=1)
    for name, mark in _SCORES.items():
        label = "F1" if name == "f1" else name
        axes.plot(values[name], rows, linestyle="none", label=label, **mark)
    _score_axis(axes, together[np.isfinite(together)])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    names = [shorten(line.get("class", ""), _NAME_WIDTH) for line in per_class]
    axes.set_yticks(rows, names, fontsize=style.SMALL)
    axes.tick_params(length=0)
    # A tall figure is read from both ends.
    axes.tick_params(axis="x", top=True, labeltop=len(rows) > 25)
    axes.spines[["left"]].set_visible(False)
    axes.set_title(title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


def _score_axis(axes: Axes, scores: NDArray[np.float64]) -> None:
    """Begin where all scores fit: from zero on, those of a good network would be one dot."""
    lowest = scores.min(initial=1.0)
    begin = max(begin for begin in _AXIS_BEGINS if begin <= lowest)
    # Room for the whole of a mark at either end.
    room = 0.025 * (1 - begin)
    axes.set_xlim(begin - room, 1 + room)
    axes.set_xticks(np.linspace(begin, 1, 6))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.4g}"))


def _cell_inches(counts: NDArray[np.int64], font: float) -> float:
    """Return the side of a cell that the longest count fits into."""
    digits = len(str(counts.max()))
    points = max((digits + 1) * _DIGIT_WIDTH, 2.0) * font
    return max(points / style.POINTS_PER_INCH, 3.2 / len(counts))


def _shades(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return a colour for each cell: blue is right, orange is wrong, by the share of the row."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    right = np.eye(len(counts), dtype=bool)
    worst = shares[~right].max(initial=0.0) or 1.0
    # The power keeps a single error visible beside the worst confusion.
    wrong = PowerNorm(0.65, vmin=0, vmax=worst)(shares)
    blues, oranges = mpl.colormaps["Blues"], mpl.colormaps["Oranges"]
    # Less than the whole colour map: its end is too dark to be calm.
    shades: NDArray[np.float64] = np.where(
        right[..., np.newaxis], blues(0.75 * shares), oranges(0.6 * wrong)
    )
    shades[counts == 0] = 1.0
    return shades


def _count_cells(
    axes: Axes, counts: NDArray[np.int64], shades: NDArray[np.float64], font: float
) -> None:
    luminance = shades[..., :3] @ (0.299, 0.587, 0.114)
    for (row, column), count in np.ndenumerate(counts):
        if count == 0 and len(counts) > _ZEROS_UP_TO:
            continue
        text = axes.text(
            column,
            row,
            str(count),
            fontsize=font,
            horizontalalignment="center",
            verticalalignment="center",
            color=_text_color(int(count), float(luminance[row, column])),
        )
        # The layout needn't ask each of thousands of numbers whether it is inside.
        text.set_in_layout(False)


def _text_color(count: int, luminance: float) -> str:
    if count == 0:
        return style.FAINT
    return "white" if luminance < 0.45 else style.INK


def _cell_borders(axes: Axes, num_classes: int) -> None:
    """Rule the matrix between its cells: grid lines would run through them."""
    edges = np.arange(num_classes + 1) - 0.5
    axes.hlines(edges, -0.5, num_classes - 0.5, color=style.LINES, linewidth=0.6)
    axes.vlines(edges, -0.5, num_classes - 0.5, color=style.LINES, linewidth=0.6)
    axes.spines[:].set_visible(False)


def _scores(per_class: Sequence[Mapping[str, Any]], name: str) -> NDArray[np.float64]:
    # None becomes NaN.
    return np.array([line.get(name) for line in per_class], dtype=np.float64)
