"""The page of a run: one HTML file that needs nothing else."""

from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from lockstep.report.contents import RunContents
from lockstep.report.curves import seconds_of_phases
from lockstep.report.images import is_image
from lockstep.report.labels import duration, name_of, number

_EPOCH_COLUMNS = {
    "epoch": "d",
    "step": ",d",
    "train_loss": ".4f",
    "val_loss": ".4f",
    "val_accuracy": ".2%",
    "val_correct": ",d",
    "lr": ".3g",
    "epoch_s": ".3g",
    "samples_per_s": ",.0f",
}
_SCORE_COLUMNS = {"precision": ".4f", "recall": ".4f", "f1": ".4f", "support": ",d"}
_TIMES = "\N{MULTIPLICATION SIGN}"
# The page shows these in a form of their own.
_SHOWN_ELSEWHERE = {"confusion_matrix", "per_class"}


@dataclass(frozen=True)
class Drawn:
    """A plot as the page shows it.

    Parameters
    ----------
    name, title, caption : str
        What it is.
    path : Path or None
        The PNG, or None where the plot was left out.
    why_not : str
        Why it was.
    """

    name: str
    title: str
    caption: str
    path: Path | None
    why_not: str = ""

    @property
    def data_uri(self) -> str:
        """The PNG as text, to be put into the page."""
        content = self.path.read_bytes() if self.path else b""
        return f"data:image/png;base64,{b64encode(content).decode('ascii')}"


def render(contents: RunContents, plots: list[Drawn]) -> str:
    """Write the page as HTML.

    Parameters
    ----------
    contents : RunContents
        What the run folder holds.
    plots : list of Drawn
        The plots, in their order on the page.

    Returns
    -------
    str
        The page, with images and style inside, without any reference to another file.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    template = files("lockstep.report").joinpath("template.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        contents=contents,
        name=contents.run.get("run", "run"),
        subtitle=_subtitle(contents),
        headline=_headline(contents),
        weights_sha256=contents.summary.get("weights_sha256"),
        plots=plots,
        anchors=_anchors(contents, plots),
        per_class=contents.summary.get("per_class") or [],
        score_columns=_SCORE_COLUMNS,
        epoch_columns=_EPOCH_COLUMNS,
        mistakes=_mistakes(contents),
        phases=_phases(contents),
        sections=_sections(contents),
    )


def _anchors(contents: RunContents, plots: list[Drawn]) -> list[tuple[str, str]]:
    """Return the sections of the page: the id and the title of each."""
    anchors = [(plot.name, plot.title) for plot in plots]
    if contents.metrics:
        anchors.append(("epochs", "Epochs"))
    anchors.append(("environment", "Result and environment"))
    if contents.config:
        anchors.append(("configuration", "Configuration"))
    return anchors


def _subtitle(contents: RunContents) -> str:
    run = contents.run
    parts = (
        _labelled("data set", (run.get("dataset") or {}).get("name")),
        _labelled("network", run.get("network")),
        _labelled("parameters", run.get("num_parameters"), ",d"),
        _labelled("started", run.get("started")),
    )
    return " · ".join(part for part in parts if part)


def _labelled(label: str, value: object, spec: str = "") -> str:
    return "" if value is None else f"{label} {number(value, spec)}"


def _headline(contents: RunContents) -> list[tuple[str, str, str]]:
    """Return the figures to read first: label, value, and a note below."""
    return [
        _test_accuracy(contents.summary),
        _best_epoch(contents),
        _wall_time(contents),
        _ranks(contents.run),
    ]


def _test_accuracy(summary: Mapping[str, Any]) -> tuple[str, str, str]:
    correct, total = summary.get("test_correct"), summary.get("test_total")
    note = "no test results"
    if correct is not None and total is not None:
        note = f"{total - correct:,} errors of {total:,}"
    return "Test accuracy", number(summary.get("test_accuracy"), ".2%"), note


def _best_epoch(contents: RunContents) -> tuple[str, str, str]:
    best = contents.best_epoch
    accuracies = {line["epoch"]: line.get("val_accuracy") for line in contents.metrics}
    accuracy = contents.summary.get("best_val_accuracy", accuracies.get(best))
    note = f"of {len(contents.metrics)}"
    if accuracy is not None:
        note += f", {accuracy:.2%} in validation"
    return "Best epoch", number(best), note


def _wall_time(contents: RunContents) -> tuple[str, str, str]:
    wall_time_s = contents.summary.get("wall_time_s")
    note = number(contents.summary.get("num_steps"), ",d") + " steps"
    if wall_time_s is None:
        wall_time_s = sum(line.get("epoch_s") or 0.0 for line in contents.metrics)
        note = "in the epochs so far"
    elif contents.summary.get("stopped_early"):
        note += ", stopped early"
    return "Wall time", duration(wall_time_s), note


def _ranks(run: Mapping[str, Any]) -> tuple[str, str, str]:
    hosts = run.get("hosts") or {}
    note = f"on {len(hosts)} host{'s' if len(hosts) != 1 else ''}" if hosts else ""
    ranks = f"{number(run.get('world_size'))} {_TIMES} {number(run.get('virtual_ranks'))}"
    return f"Ranks {_TIMES} virtual ranks", ranks, note


def _phases(contents: RunContents) -> list[dict[str, Any]]:
    """List what the epochs' time was spent on, all epochs together."""
    seconds = {
        name: float(part.sum()) for name, part in seconds_of_phases(contents.metrics).items()
    }
    whole_s = sum(seconds.values())
    if not whole_s:
        return []
    num_steps = contents.metrics[-1].get("step")
    return [
        {
            "name": name,
            "seconds": part_s,
            "share": part_s / whole_s,
            "step_ms": 1000 * part_s / num_steps if num_steps else None,
        }
        for name, part_s in [*seconds.items(), ("together", whole_s)]
    ]


def _mistakes(contents: RunContents) -> list[dict[str, Any]]:
    """List the mistakes where they can't be drawn."""
    figures = contents.figures
    if "mistakes.x" not in figures or is_image(figures["mistakes.x"].shape[1:]):
        return []
    keys = ("index", "true", "predicted", "probability", "true_probability")
    rows = zip(*(figures[f"mistakes.{key}"].tolist() for key in keys), strict=True)
    return [
        {
            "index": index,
            "true": name_of(true, contents.class_names),
            "predicted": name_of(predicted, contents.class_names),
            "probability": probability,
            "true_probability": true_probability,
        }
        for index, true, predicted, probability, true_probability in rows
    ]


def _sections(contents: RunContents) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return whatever is left to tell, in tables of names and values."""
    result = {key: value for key, value in contents.summary.items() if key not in _SHOWN_ELSEWHERE}
    nested = {key: value for key, value in contents.run.items() if isinstance(value, dict)}
    alone = {key: value for key, value in contents.run.items() if key not in nested}
    sections = {"result": result, "run": alone, **nested}
    return [
        (title.replace("_", " "), list(_flat(section)))
        for title, section in sections.items()
        if section
    ]


def _flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} ")
        elif isinstance(value, list):
            yield prefix + key, ", ".join(map(str, value))
        else:
            # An integer keeps all its digits: it may be a seed.
            yield prefix + key, number(value, ".6g" if isinstance(value, float) else "")
