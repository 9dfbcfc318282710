"""The two runs of a comparison: what is read from their folders."""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lockstep.errors import UserError
from lockstep.report.contents import read_run
from lockstep.report.labels import shorten
from lockstep.storage.run_folder import RunFolder, read_json_lines

_VALUE_WIDTH = 100
_DIGEST_LETTERS = 16


@dataclass(frozen=True)
class Run:
    """A run, finished or not.

    Parameters
    ----------
    name : str
        What to call it.
    settings : mapping
        The fields of `config.toml` by name.
    facts, summary : mapping
        `run.json` and `summary.json`; empty where there is none.
    metrics : mapping of int to mapping
        By epoch.
    trace : mapping of int to mapping
        By step; empty without `--trace true`.
    """

    name: str
    settings: Mapping[str, Any]
    facts: Mapping[str, Any]
    summary: Mapping[str, Any]
    metrics: Mapping[int, Mapping[str, Any]]
    trace: Mapping[int, Mapping[str, Any]]

    def sessions(self, before: float) -> list[Mapping[str, Any]]:
        """Return the facts of the first start, and of the resumptions before a step."""
        resumptions = self.facts.get("resumed") or ()
        return [self.facts, *(session for session in resumptions if session["step"] < before)]


@dataclass(frozen=True)
class FieldDifference:
    """A field in which two runs differ; `values` are both values, as `A | B`."""

    name: str
    values: str

    def __str__(self) -> str:
        return f"{self.name} {self.values}"


def read_runs(a: RunFolder, b: RunFolder) -> tuple[Run, Run]:
    """Read two runs, which are named after their folders, or by their paths where these agree.

    Raises
    ------
    UserError
        When a file is damaged.
    """
    one, other = a.path.resolve(), b.path.resolve()
    names = (str(one), str(other)) if one.name == other.name else (one.name, other.name)
    return _read(a, names[0]), _read(b, names[1])


def _read(folder: RunFolder, name: str) -> Run:
    contents = read_run(folder)
    # The plots' arrays are not compared.
    damaged = [text for file, text in contents.unreadable.items() if file != folder.figures.name]
    if damaged:
        raise UserError(f"Can't compare {folder.path}: {' '.join(damaged)}")
    return Run(
        name=name,
        settings=_read_settings(folder, contents.config),
        facts=contents.run,
        summary=contents.summary,
        metrics={line["epoch"]: line for line in contents.metrics},
        trace=_read_trace(folder) if folder.trace.is_file() else {},
    )


def _read_settings(folder: RunFolder, text: str) -> dict[str, Any]:
    """Return the fields of all sections; no two of them have the same name."""
    try:
        sections = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{folder.config} is damaged: {error}.") from error
    tables = [fields for fields in sections.values() if isinstance(fields, dict)]
    return {name: value for fields in tables for name, value in fields.items()}


def _read_trace(folder: RunFolder) -> dict[int, dict[str, Any]]:
    keys = ("epoch", "batch", "gradient", "parameters")
    try:
        lines = read_json_lines(folder.trace)
        return {line["step"]: {key: line[key] for key in keys} for line in lines}
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder.trace} is damaged: a line isn't a step's.") from error


def common(a: Mapping[int, Any], b: Mapping[int, Any]) -> list[int]:
    """Return the epochs or steps that both have, in order."""
    return sorted(a.keys() & b.keys())


def have_same_length(a: Run, b: Run) -> bool:
    """Tell whether both have finished, after as many steps."""
    num_steps = a.summary.get("num_steps")
    return num_steps is not None and bool(num_steps == b.summary.get("num_steps"))


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[FieldDifference]:
    """Yield the fields that both have, with two different values; None stands for no value."""
    for name, one in a.items():
        other = b.get(name)
        # By their text, because that tells 0.0 from -0.0, and a NaN is the same as itself.
        if one is not None and other is not None and repr(one) != repr(other):
            is_table = isinstance(one, list) and len(str(one)) > _VALUE_WIDTH
            values = "other entries" if is_table else f"{_shown(one)} | {_shown(other)}"
            yield FieldDifference(name, values)


def _shown(value: object) -> str:
    text = str(value)
    return short_digest(text) if len(text) == 64 and text.isalnum() else shorten(text, _VALUE_WIDTH)


def short_digest(sha256: str) -> str:
    """Return as much of a digest as tells it from others."""
    return sha256[:_DIGEST_LETTERS] + "…"
