"""Sheets of small pictures: samples, mistakes, weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from lockstep.report import style
from lockstep.report.labels import name_of, shorten

# Inches.
_PAGE_WIDTH = 10.5
_GAP = 0.1
_LINE = 0.16
# Left of a cell and below it.
_TICK_ROOM = (0.32, 0.22)
_NAME_WIDTH = 16
_BARS_UP_TO = 40
_MAX_CHARTS = 16


@dataclass(frozen=True)
class _Sheet:
    """A figure of equal cells, each with lines of text above it."""

    figure: Figure
    cells: list[Axes]


def is_image(feature_shape: Sequence[int]) -> bool:
    """Tell whether samples of this shape are gray or colour images."""
    return len(feature_shape) == 2 or (len(feature_shape) == 3 and feature_shape[-1] in (1, 3))


@style.styled
def mistakes(figures: dict[str, NDArray[Any]], class_names: Sequence[str]) -> Figure:
    """Draw the misclassified samples that the network was most certain of.

    Parameters
    ----------
    figures : dict of str to ndarray
        The arrays `mistakes.*` of a run; samples must be images.
    class_names : sequence of str
        The names of the classes.

    Returns
    -------
    Figure
        A gallery; above each image what was predicted, how certainly, and the truth.
    """
    images = _displayable(figures["mistakes.x"])
    title = "Mistakes, the most confident first (✗ predicted, ✓ true)"
    sheet = _sheet(title, images.shape[:3], text_lines=2, columns=6)
    columns = (figures[f"mistakes.{key}"] for key in ("predicted", "probability", "true"))
    for axes, image, predicted, probability, true in zip(
        sheet.cells, images, *columns, strict=True
    ):
        _show(axes, image)
        _above(axes, 1, f"✗ {shorten(name_of(predicted, class_names), 13)}", style.VERMILION)
        _above(axes, 1, _below_one(probability), style.FAINT, side="right")
        _above(axes, 0, f"✓ {shorten(name_of(true, class_names), _NAME_WIDTH)}", style.INK)
    return sheet.figure


@style.styled
def first_layer_weights(weight: NDArray[np.float32], feature_shape: Sequence[int]) -> Figure:
    """Draw what each unit of the first layer looks for.

    Parameters
    ----------
    weight : ndarray
        A row of weights for each unit.
    feature_shape : sequence of int
        The shape of the images that the weights belong to.

    Returns
    -------
    Figure
        An image for each unit; all have the same scale, with zero in its middle.
    """
    # A run that diverged has weights that are no numbers.
    weight = np.nan_to_num(weight, posinf=0, neginf=0)
    images = weight.reshape(-1, *feature_shape)
    # A few extreme weights would leave all others pale.
    limit = float(np.quantile(np.abs(weight), 0.998)) or 1.0
    title = "Weights of the first layer, by unit"
    sheet = _sheet(title, images.shape[:3], text_lines=1, foot=0.6)
    in_color = images.shape[-1] == 3 and images.ndim == 4
    for unit, (axes, image) in enumerate(zip(sheet.cells, images, strict=True)):
        if in_color:
            axes.imshow(np.clip(0.5 + image / (2 * limit), 0, 1))
        else:
            axes.imshow(image.reshape(images.shape[1:3]), cmap="RdBu_r", vmin=-limit, vmax=limit)
        _above(axes, 0, str(unit), style.FAINT)
    if in_color:
        note = f"gray is zero; a channel is full at +{limit:.2g} and absent at -{limit:.2g}"
        _foot_text(sheet.figure, note)
    else:
        _foot_scale(sheet.figure, limit)
    return sheet.figure


@style.styled
def sample_sheet(x: ArrayLike, y: ArrayLike, class_names: Sequence[str], out: Path) -> int:
    """Draw samples with their labels and write the sheet as a PNG.

    Parameters
    ----------
    x : array_like
        Samples by rows: gray or colour images, or rows of any other features, of which only the
        first few are drawn.
    y : array_like
        The class index of each sample.
    class_names : sequence of str
        The names of the classes.
    out : Path
        The file to write.

    Returns
    -------
    int
        How many samples are on the sheet.

    Raises
    ------
    UserError
        When `out` can't be written.
    """
    samples, labels = np.asarray(x), np.asarray(y)
    if is_image(samples.shape[1:]):
        images = _displayable(samples)
        sheet = _sheet("Samples", images.shape[:3], text_lines=1)
        for axes, image in zip(sheet.cells, images, strict=True):
            _show(axes, image)
    else:
        rows = samples.reshape(len(samples), -1)[:_MAX_CHARTS]
        rows = _displayable(rows, by_feature=True)
        title = "Samples by feature, each from the least to the greatest of its values shown here"
        sheet = _sheet(title, (len(rows), 1, 2), text_lines=1, columns=4, ticks=True)
        for axes, row in zip(sheet.cells, rows, strict=True):
            _show_row(axes, row)
    for axes, label in zip(sheet.cells, labels[: len(sheet.cells)], strict=True):
        _above(axes, 0, shorten(name_of(int(label), class_names), _NAME_WIDTH), style.INK)
    style.save(sheet.figure, out)
    return len(sheet.cells)


@style.styled
def augmentation_sheet(x: ArrayLike, y: ArrayLike, class_names: Sequence[str], out: Path) -> None:
    """Draw samples beside what augmentation makes of them, and write the sheet as a PNG.

    Parameters
    ----------
    x : array_like (num_samples, num_versions, *feature_shape)
        Gray or colour images; the first version is the sample itself.
    y : array_like
        The class index of each sample.
    class_names : sequence of str
        The names of the classes.
    out : Path
        The file to write.

    Raises
    ------
    UserError
        When `out` can't be written.
    """
    images = _displayable(np.asarray(x))
    num_samples, num_versions, height, width = images.shape[:4]
    shape = (num_samples * num_versions, height, width)
    title = "Samples (left), and what augmentation makes of them"
    sheet = _sheet(title, shape, text_lines=1, columns=num_versions)
    for axes, image in zip(sheet.cells, images.reshape(-1, *images.shape[2:]), strict=True):
        _show(axes, image)
    for axes, label in zip(sheet.cells[::num_versions], np.asarray(y), strict=True):
        _above(axes, 0, shorten(name_of(int(label), class_names), _NAME_WIDTH), style.INK)
    style.save(sheet.figure, out)


def _sheet(
    title: str,
    shape: tuple[int, ...],
    text_lines: int,
    *,
    columns: int = 8,
    foot: float = 0.0,
    ticks: bool = False,
) -> _Sheet:
    """Place cells by inches: a layout engine takes seconds for so many.

    Parameters
    ----------
    title : str
        What stands above.
    shape : tuple of int
        Number of cells, and height and width of what a cell shows.
    text_lines : int
        How many lines of text to leave room for above each cell.
    columns : int
        Cells in a row, if there are as many; they set the size of a cell.
    foot : float
        Inches to leave free at the bottom.
    ticks : bool
        Whether to leave room for labels left of and below each cell.
    """
    num_cells, height, width = shape
    tick_width, tick_height = _TICK_ROOM if ticks else (0.0, 0.0)
    cell_width = (_PAGE_WIDTH - _GAP) / columns - _GAP - tick_width
    # Fewer than four would cut the title.
    columns = min(columns, max(num_cells, 4))
    rows = ceil(num_cells / columns)
    cell_height = cell_width * min(max(height / width, 0.4), 2.0)
    pitch = cell_height + text_lines * _LINE + 2 * _GAP + tick_height
    full_width = columns * (cell_width + tick_width + _GAP) + _GAP
    full_height = 0.4 + rows * pitch + foot
    figure = Figure(figsize=(full_width, full_height))
    figure.text(_GAP / full_width, 1 - 0.28 / full_height, title, fontsize=11)
    cells = []
    for cell in range(num_cells):
        row, column = divmod(cell, columns)
        left = _GAP + column * (cell_width + tick_width + _GAP) + tick_width
        bottom = full_height - 0.4 - (row + 1) * pitch + _GAP + tick_height
        box = (
            left / full_width,
            bottom / full_height,
            cell_width / full_width,
            cell_height / full_height,
        )
        axes = figure.add_axes(box)
        axes.set(xticks=[], yticks=[])
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        cells.append(axes)
    return _Sheet(figure, cells)


def _displayable(x: NDArray[Any], *, by_feature: bool = False) -> NDArray[np.float32]:
    """Scale samples of any type to 0..1, by the values that occur among them."""
    values = x.astype(np.float32)
    axis = 0 if by_feature else None
    lowest = values.min(axis=axis)
    span = values.max(axis=axis) - lowest
    scaled: NDArray[np.float32] = (values - lowest) / np.where(span > 0, span, 1)
    return scaled


def _show(axes: Axes, image: NDArray[np.float32]) -> None:
    is_gray = image.ndim == 2 or image.shape[-1] == 1
    axes.imshow(image.reshape(image.shape[:2]) if is_gray else image, cmap="gray", vmin=0, vmax=1)


def _show_row(axes: Axes, row: NDArray[np.float32]) -> None:
    if len(row) <= _BARS_UP_TO:
        axes.bar(np.arange(len(row)), row, width=0.8, color=style.BLUE)
    else:
        axes.plot(row, color=style.BLUE, linewidth=0.8)
    axes.set_ylim(0, 1.05)
    axes.set_yticks([0, 1], ["min", "max"], fontsize=style.SMALL)
    last = len(row) - 1
    axes.set_xticks([0, last] if last else [0])
    axes.set_xticklabels(["feature 0", str(last)] if last else ["feature 0"], fontsize=style.SMALL)
    # The first would reach to the left of the chart, and be in the way of "min".
    axes.get_xticklabels()[0].set_horizontalalignment("left" if last else "center")
    axes.tick_params(length=2, pad=2)
    axes.spines[["bottom", "left"]].set_visible(True)


def _above(
    axes: Axes, line: int, text: str, color: str, side: Literal["left", "right"] = "left"
) -> None:
    """Write a line of text above a cell, counted from the cell upwards."""
    axes.annotate(
        text,
        (0 if side == "left" else 1, 1),
        xycoords="axes fraction",
        xytext=(0, 3 + line * _LINE * style.POINTS_PER_INCH),
        textcoords="offset points",
        horizontalalignment=side,
        fontsize=style.SMALL,
        color=color,
    )


def _below_one(probability: float) -> str:
    """Format a probability so that it doesn't claim to be sure when it isn't."""
    return ">99.9%" if probability > 0.9995 else f"{probability:.1%}"


def _foot_scale(figure: Figure, limit: float) -> None:
    width, height = figure.get_size_inches()
    # Room for the labels at the ends of the scale.
    axes = figure.add_axes((0.35 / width, 0.35 / height, 3.0 / width, 0.12 / height))
    scale = ScalarMappable(Normalize(-limit, limit), cmap="RdBu_r")
    bar = figure.colorbar(scale, cax=axes, orientation="horizontal", ticks=[-limit, 0, limit])
    bar.ax.set_xticklabels([f"-{limit:.2g}", "0", f"+{limit:.2g}"], fontsize=style.SMALL)
    bar.outline.set_visible(False)


def _foot_text(figure: Figure, text: str) -> None:
    width, height = figure.get_size_inches()
    figure.text(_GAP / width, 0.2 / height, text, fontsize=style.SMALL, color=style.FAINT)
