"""Which plots a run gets, and why another is left out."""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lockstep.errors import UserError
from lockstep.report import curves, images, page, scores, style
from lockstep.report.contents import RunContents, points, read_run
from lockstep.storage.run_folder import RunFolder, write_text

# Beyond this many classes no plot has room for each of them; the page's table has.
_MAX_CLASSES = 128


@dataclass(frozen=True)
class _Plot:
    """A plot of the report; `draw` gives the figure, or says why there is none."""

    name: str
    title: str
    caption: str
    # The file that holds what it shows.
    source: str
    draw: Callable[[RunContents], Figure | str]


def report(folder: RunFolder) -> list[Path]:
    """Draw the plots of a run and write its page.

    Parameters
    ----------
    folder : RunFolder
        A run, finished or not. What it doesn't hold is left out, and the page says so.

    Returns
    -------
    list of Path
        The files written: the plots, then the page.

    Raises
    ------
    UserError
        When the folder can't be written to.
    """
    contents = read_run(folder)
    try:
        folder.plots.mkdir(exist_ok=True)
        drawn = [_write_plot(plot, contents, folder.plots) for plot in _PLOTS]
        write_text(folder.report, page.render(contents, drawn))
    except OSError as error:
        raise UserError(f"Can't write the report into {folder.path}: {error.strerror}.") from error
    return [plot.path for plot in drawn if plot.path is not None] + [folder.report]


def unreadable_files(folder: RunFolder) -> list[str]:
    """Tell what the report of a run leaves out because a file is damaged.

    Parameters
    ----------
    folder : RunFolder
        A run, finished or not.

    Returns
    -------
    list of str
        A message for each file that is there but can't be read; none for a file that isn't there.
    """
    return [
        f"{message} {_left_out_without(name)}"
        for name, message in read_run(folder).unreadable.items()
    ]


def _left_out_without(file: str) -> str:
    titles = [plot.title.lower() for plot in _PLOTS if plot.source == file]
    return f"The report leaves out {', '.join(titles) or 'what it holds'}."


def _write_plot(plot: _Plot, contents: RunContents, plots: Path) -> page.Drawn:
    path = plots / f"{plot.name}.png"
    # An empty summary isn't "no results yet" when the results are only unreadable.
    figure = (
        f"{plot.source} is damaged." if plot.source in contents.unreadable else plot.draw(contents)
    )
    if isinstance(figure, str):
        # An earlier report of the same run may have had it.
        path.unlink(missing_ok=True)
        return page.Drawn(plot.name, plot.title, plot.caption, path=None, why_not=figure)
    style.save(figure, path)
    return page.Drawn(plot.name, plot.title, plot.caption, path)


def _learning_curves(contents: RunContents) -> Figure | str:
    return _too_few_epochs(contents) or curves.learning_curves(contents.metrics)


def _correct_by_epoch(contents: RunContents) -> Figure | str:
    if contents.metrics and not len(points(contents.metrics, "val_correct")[0]):
        return "The data set has no validation split."
    return _too_few_epochs(contents) or curves.correct_by_epoch(
        contents.metrics, contents.best_epoch
    )


def _time_per_phase(contents: RunContents) -> Figure | str:
    if not len(points(contents.metrics, "epoch_s")[0]):
        return "No epoch has been finished yet."
    return curves.time_per_phase(contents.metrics)


def _confusion_matrix(contents: RunContents) -> Figure | str:
    matrix = contents.summary.get("confusion_matrix") or []
    return _no_test_results(contents, matrix) or scores.confusion_matrix(
        matrix, contents.class_names
    )


def _per_class_scores(contents: RunContents) -> Figure | str:
    per_class = contents.summary.get("per_class") or []
    return _no_test_results(contents, per_class) or scores.per_class_scores(per_class)


def _mistakes(contents: RunContents) -> Figure | str:
    samples = contents.figures.get("mistakes.x")
    if samples is None:
        return "The run has stored no misclassified test samples."
    if not len(samples):
        return "No test sample was misclassified."
    if not images.is_image(samples.shape[1:]):
        return "The samples are no images; the table lists them."
    return images.mistakes(contents.figures, contents.class_names)


def _first_layer_weights(contents: RunContents) -> Figure | str:
    weight = contents.figures.get("first_layer.weight")
    shape = contents.feature_shape
    if shape and not images.is_image(shape):
        return "The samples are no images, so neither are the weights."
    if weight is None or weight.shape[1] != prod(shape):
        return "The run has stored no weights that fit its images."
    return images.first_layer_weights(weight, shape)


def _too_few_epochs(contents: RunContents) -> str:
    num_epochs = len(contents.metrics)
    return "" if num_epochs > 1 else f"A curve needs two epochs; this run has {num_epochs} so far."


def _no_test_results(contents: RunContents, rows: list[Any]) -> str:
    if not contents.summary:
        return "The run has no test results yet."
    if not rows:
        return "The data set has no test split."
    if len(rows) > _MAX_CLASSES:
        return f"{len(rows)} classes are too many to be readable in a plot."
    return ""


_PLOTS = (
    _Plot(
        "learning_curves",
        "Learning curves",
        "Loss on training and validation samples, validation accuracy and learning rate by epoch.",
        "metrics.jsonl",
        _learning_curves,
    ),
    _Plot(
        "correct_by_epoch",
        "Correct by epoch",
        "How many validation samples were classified correctly after each epoch.",
        "metrics.jsonl",
        _correct_by_epoch,
    ),
    _Plot(
        "confusion_matrix",
        "Confusion matrix",
        "Test samples by true class (rows) and predicted class (columns). Blue is right, orange is "
        "wrong; darker is a larger share of the row, on a scale of its own for each.",
        "summary.json",
        _confusion_matrix,
    ),
    _Plot(
        "per_class_scores",
        "Scores by class",
        "Precision, recall and F1 of each class on the test samples.",
        "summary.json",
        _per_class_scores,
    ),
    _Plot(
        "mistakes",
        "Mistakes",
        "The misclassified test samples that the network was most certain of.",
        "figures.safetensors",
        _mistakes,
    ),
    _Plot(
        "first_layer_weights",
        "First-layer weights",
        "What each unit of the first layer looks for, all on one scale about zero.",
        "figures.safetensors",
        _first_layer_weights,
    ),
    _Plot(
        "time_per_phase",
        "Time per phase",
        "Time of each epoch by what it was spent on, and each phase's share of the whole.",
        "metrics.jsonl",
        _time_per_phase,
    ),
)
