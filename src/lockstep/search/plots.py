"""The plots of a search."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from lockstep.report.style import BLUE, PALE, SMALL, save, styled
from lockstep.search.spec import Choices, Range
from lockstep.search.standings import Standing

_MOST_LETTERS = 18


@styled
def draw_curves(
    curves: Sequence[Sequence[tuple[float, float]]], names: Sequence[str], path: Path
) -> None:
    """Draw the validation accuracy by epoch of all trials, the best one on top.

    Parameters
    ----------
    curves : sequence of sequence of (epoch, accuracy)
        Of each trial, the best first.
    names : sequence of str
        Of the trials.
    path : Path
        Where the PNG goes.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for place in reversed(range(len(curves))):
        epochs, accuracies = ([point[axis] for point in curves[place]] for axis in (0, 1))
        is_best = place == 0
        axes.plot(
            epochs,
            accuracies,
            color=BLUE if is_best else PALE,
            marker="o" if is_best or len(epochs) == 1 else "",
            linewidth=2.2 if is_best else 1.2,
            zorder=3 if is_best else 2,
            label=f"{names[place]}, the best" if is_best else None,
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title("Validation accuracy of the trials")
    axes.set_xlabel("Epoch")
    axes.legend(loc="lower right")
    save(figure, path)


@styled
def draw_field(
    name: str,
    space: Choices,
    values: Sequence[str],
    standings: Sequence[Standing],
    path: Path,
) -> None:
    """Draw each trial's validation accuracy over the value that it had of one field.

    Parameters
    ----------
    name : str
        The field.
    space : list or Range
        What it was drawn from.
    values : sequence of str
        Of each trial.
    standings : sequence of Standing
        Of the same trials. Those that went on to the last rung are filled.
    path : Path
        Where the PNG goes.
    """
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    last_rung = max(one.rung for one in standings)
    if isinstance(space, Range):
        places = [float(value) for value in values]
        axes.set_xscale(space.scale)
        # No formulas, which the style keeps texts from being.
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        choices = sorted(set(values), key=_order)
        places = [float(choices.index(value)) for value in values]
        axes.set_xticks(range(len(choices)), [_shortened(choice) for choice in choices])
        axes.margins(x=0.1)
    for place, one in zip(places, standings, strict=True):
        if one.accuracy is None:
            continue
        is_filled = one.rung == last_rung and not one.has_diverged
        axes.plot(
            place, one.accuracy, "o", color=BLUE, markerfacecolor=BLUE if is_filled else "white",
            zorder=3 if is_filled else 2,
        )  # fmt: skip
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.set_title(f"Validation accuracy by {name}")
    axes.set_xlabel(name)
    if last_rung > 0:
        note = "filled: went on to the last rung"
        figure.text(0.99, 0.985, note, ha="right", va="top", fontsize=SMALL)
    save(figure, path)


def _order(text: str) -> tuple[bool, float, str]:
    """Sort numbers by their size, and before texts."""
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text


def _shortened(text: str) -> str:
    text = text or "(none)"
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"
