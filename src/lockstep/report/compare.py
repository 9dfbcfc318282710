"""Where two runs stop having the same bits, and what may be the cause."""

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lockstep.errors import UserError
from lockstep.report.contents import read_run
from lockstep.report.labels import MISSING, shorten
from lockstep.storage.run_folder import RunFolder, read_json_lines

# What a step of the trace tells, in the order in which a step goes.
_TRACED = {"data order": "batch", "gradient": "gradient", "parameters": "parameters"}

# Fields of [training] that change no bits of the steps that both runs take.
_HARMLESS_TRAINING = {
    "patience", "keep_checkpoints", "checkpoint_steps", "checkpoint_minutes",
    "replica_check_steps", "trace",
}  # fmt: skip
# The learning rate of these doesn't depend on the number of epochs; that of any other does.
_ENDLESS_SCHEDULES = {"constant", "step"}

# Where run.json tells what the bits depend on, the likeliest causes first.
_CAUSES = {
    "BLAS kernel": "blas.kernel",
    "BLAS library": "blas.library",
    "BLAS version": "blas.version",
    "BLAS threads": "blas.threads",
    "BLAS kernels of the ranks": "kernels",
    "NumPy": "versions.numpy",
    "Lockstep": "versions.lockstep",
    "system": "machine.system",
    "processor": "machine.processor",
}
_HARMLESS = {
    "cores": "machine.cores",
    "Python": "versions.python",
    "h5py": "versions.h5py",
    "mpi4py": "versions.mpi4py",
    "hosts": "hosts",
}
# Harmless for the ordered sum only.
_SPREAD = {"ranks": "world_size", "MPI": "versions.mpi"}
# The rows of a batch come from the random numbers alone.
_CAUSES_OF_DATA_ORDER = {"NumPy", "Lockstep"}

_VALUE_WIDTH = 60
_NUM_SHOWN_FLAGS = 12
_DIGEST_LETTERS = 16


@dataclass(frozen=True)
class FieldDifference:
    """A field in which two runs differ.

    Parameters
    ----------
    name : str
        The field.
    values : str
        Both values, as `A | B`.
    """

    name: str
    values: str

    def __str__(self) -> str:
        return f"{self.name} {self.values}"


@dataclass(frozen=True)
class FirstDifference:
    """The first place where two runs have other bits.

    Parameters
    ----------
    kind : str
        "data order", "gradient" or "parameters", as the traces tell; "metrics" where only these
        do; "evaluation" when the metrics differ in spite of the same parameters; "weights" when
        only the final ones differ; "scores" when not even these do.
    epoch : int
        The epoch that it shows in.
    steps : tuple of int
        The first and the last step that it may have come about in.
    layers : tuple of int
        The layers that differ, counted from 1.
    fields : tuple of FieldDifference
        Of the metrics or the summary.
    same_until : int
        The last step before it whose traces are the same; 0 when there is none.
    """

    kind: str
    epoch: int
    steps: tuple[int, int]
    layers: tuple[int, ...] = ()
    fields: tuple[FieldDifference, ...] = ()
    same_until: int = 0

    @property
    def is_traced(self) -> bool:
        """Whether the traces tell it."""
        return self.kind in _TRACED

    @property
    def is_exact(self) -> bool:
        """Whether the step is known."""
        return self.is_traced and self.steps[0] == self.steps[1]


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common and where they differ.

    Parameters
    ----------
    names : tuple of str
        What to call the runs.
    settings : tuple of FieldDifference
        Those that define the result, and the data set.
    first : FirstDifference, optional
        Where the bits differ first; None when all that both runs have is the same.
    environment : tuple of FieldDifference
        Versions, BLAS and machine, as far as bits may depend on them.
    harmless : tuple of FieldDifference
        What differs without changing bits.
    reach : tuple of int
        The last epoch and step that both runs have.
    weights_sha256 : str
        Of the final weights when both runs have ended with these; else empty.
    compared : tuple of str
        What both runs have.
    notes : tuple of str
        What else a reader should know.
    is_left_to_mpi : bool
        Whether the MPI library chose the order of the sums.
    """

    names: tuple[str, str]
    settings: tuple[FieldDifference, ...]
    first: FirstDifference | None
    environment: tuple[FieldDifference, ...]
    harmless: tuple[FieldDifference, ...]
    reach: tuple[int, int]
    weights_sha256: str
    compared: tuple[str, ...]
    notes: tuple[str, ...]
    is_left_to_mpi: bool

    @property
    def is_same(self) -> bool:
        """Whether the runs mean the same and all that both have is the same, bit for bit."""
        return not self.settings and self.first is None

    @property
    def causes(self) -> tuple[FieldDifference, ...]:
        """What of the environment may have caused the difference."""
        kind = self.first.kind if self.first else ""
        if kind == "data order":
            return tuple(cause for cause in self.environment if cause.name in _CAUSES_OF_DATA_ORDER)
        if kind == "parameters" and self.first and self.first.is_exact:
            # The optimizer computes number by number, without BLAS.
            return tuple(cause for cause in self.environment if "BLAS" not in cause.name)
        return self.environment


@dataclass(frozen=True)
class _Run:
    """A run as it is compared; `metrics` by epoch, `trace` by step."""

    name: str
    config: Mapping[str, Any]
    facts: Mapping[str, Any]
    metrics: Mapping[int, Mapping[str, Any]]
    summary: Mapping[str, Any]
    trace: Mapping[int, Mapping[str, Any]]

    @property
    def sessions(self) -> list[Mapping[str, Any]]:
        """The facts of the first start and of each resumption."""
        return [self.facts, *(self.facts.get("resumed") or ())]

    def setting(self, section: str, name: str) -> Any:  # noqa: ANN401 - whatever TOML holds
        """Return a field of the configuration, or None."""
        return self.config.get(section, {}).get(name)


def compare(a: RunFolder, b: RunFolder) -> Comparison:
    """Find the first difference between two runs.

    Parameters
    ----------
    a, b : RunFolder
        Runs, finished or not, with a trace or without.

    Returns
    -------
    Comparison
        What is the same, what is not, and what may be the cause.

    Raises
    ------
    UserError
        When a file is damaged, or the runs have nothing in common that could be compared.
    """
    names = _names(a, b)
    runs = _read(a, names[0]), _read(b, names[1])
    settings, harmless_settings = _compare_settings(*runs)
    first, compared = _first_difference(*runs), _compared(*runs)
    if not (settings or first or compared):
        raise UserError(
            f"There is nothing to compare yet: {names[0]} and {names[1]} have no finished epoch "
            "and no step of a trace in common. Let both train for an epoch at least."
        )
    environment, harmless = _compare_environments(*runs)
    return Comparison(
        names=names,
        settings=tuple(settings),
        first=first,
        environment=tuple(environment),
        harmless=(*harmless_settings, *harmless),
        reach=_reach(*runs),
        weights_sha256=_common_weights(*runs),
        compared=tuple(compared),
        notes=tuple(_notes(*runs)),
        is_left_to_mpi=any(map(_is_left_to_mpi, runs)),
    )


def comparison_text(comparison: Comparison) -> str:
    """Lay out a comparison for the console.

    Parameters
    ----------
    comparison : Comparison
        What `compare` has found.

    Returns
    -------
    str
        The verdict in the first line, then the details, without a newline at the end.
    """
    rows = list(_rows(comparison))
    width = max(len(label) for label, _ in rows)
    lines, above = [_verdict(comparison)], ""
    for label, text in rows:
        lines.append(f"  {'' if label == above else label:<{width}}  {text}")
        above = label
    return "\n".join(lines)


# Reading


def _names(a: RunFolder, b: RunFolder) -> tuple[str, str]:
    first, second = a.path.resolve(), b.path.resolve()
    if first.name == second.name:
        return str(first), str(second)
    return first.name, second.name


def _read(folder: RunFolder, name: str) -> _Run:
    contents = read_run(folder)
    # The plots' arrays are not compared.
    damaged = [text for file, text in contents.unreadable.items() if file != folder.figures.name]
    if damaged:
        raise UserError(f"Can't compare {folder.path}: {' '.join(damaged)}")
    try:
        config = tomllib.loads(contents.config)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{folder.config} is damaged: {error}.") from error
    return _Run(
        name=name,
        config={section: fields for section, fields in config.items() if isinstance(fields, dict)},
        facts=contents.run,
        metrics={line["epoch"]: line for line in contents.metrics},
        summary=contents.summary,
        trace=_read_trace(_trace_of(folder)),
    )


def _trace_of(folder: RunFolder) -> Path:
    return folder.path / "trace.jsonl"


def _read_trace(path: Path) -> dict[int, dict[str, Any]]:
    """Return the steps by number; of a step that a resumed run repeated, the last line counts."""
    if not path.is_file():
        return {}
    keys = {"step", "epoch", *_TRACED.values()}
    lines: list[Any] = read_json_lines(path)
    if not all(isinstance(line, dict) and keys <= line.keys() for line in lines):
        raise UserError(f"{path} is damaged: a line isn't the object of a step.")
    return {line["step"]: line for line in lines}


# Settings


def _compare_settings(a: _Run, b: _Run) -> tuple[list[FieldDifference], list[FieldDifference]]:
    """Return the settings that differ: those that define the result, and the others."""
    defining, harmless = _compare_datasets(a, b)
    for section, name in _common_settings(a, b):
        differences = list(
            _differing({f"{section}.{name}": (a.setting(section, name), b.setting(section, name))})
        )
        is_harmless = section == "training" and (
            name in _HARMLESS_TRAINING or (name == "epochs" and _is_endless(a) and _is_endless(b))
        )
        (harmless if is_harmless else defining).extend(differences)
    return defining, harmless


def _compare_datasets(a: _Run, b: _Run) -> tuple[list[FieldDifference], list[FieldDifference]]:
    """Compare the content of the data sets where it is known, else their paths."""
    path = list(_differing({"data.data": (a.setting("data", "data"), b.setting("data", "data"))}))
    digests = [(run.facts.get("dataset") or {}).get("content_sha256") for run in (a, b)]
    if None in digests:
        return path, []
    return list(_differing({"dataset.content_sha256": (digests[0], digests[1])})), path


def _common_settings(a: _Run, b: _Run) -> Iterator[tuple[str, str]]:
    for section, fields in a.config.items():
        if section != "data":
            yield from ((section, name) for name in fields if name in b.config.get(section, {}))


def _is_endless(run: _Run) -> bool:
    return run.setting("optimization", "schedule") in _ENDLESS_SCHEDULES


def _differing(pairs: Mapping[str, tuple[object, object]]) -> Iterator[FieldDifference]:
    """Yield the fields with two different values."""
    for name, (one, other) in pairs.items():
        # By their text, because that tells 0.0 from -0.0, and a NaN is the same as itself.
        if repr(one) != repr(other):
            is_table = any(isinstance(entry, list | dict) for entry in _entries(one))
            values = "other entries" if is_table else f"{_value(one)} | {_value(other)}"
            yield FieldDifference(name, values)


def _entries(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _value(value: object) -> str:
    if value is None or value == "":
        return MISSING
    if isinstance(value, str) and len(value) == 64 and value.isalnum():
        return _digest(value)
    return shorten(value, _VALUE_WIDTH)


def _digest(sha256: str) -> str:
    return sha256[:_DIGEST_LETTERS] + "…"


# Bits


def _first_difference(a: _Run, b: _Run) -> FirstDifference | None:
    """Return the older of what traces and metrics tell, and the summary's when they are silent."""
    in_metrics = _metrics_difference(a, b)
    in_trace = _trace_difference(a, b, _same_epoch_ends(a, b, in_metrics))
    if in_metrics and (in_trace is None or in_metrics.steps[1] < in_trace.steps[1]):
        return in_metrics
    return in_trace or _summary_difference(a, b)


def _trace_difference(a: _Run, b: _Run, same_epoch_ends: Sequence[int]) -> FirstDifference | None:
    previous = 0
    for step in _common(a.trace, b.trace):
        one, other = a.trace[step], b.trace[step]
        for kind, key in _TRACED.items():
            if one[key] != other[key]:
                # Without the step before, the difference may have come from an older one.
                known = max(previous, *(end for end in same_epoch_ends if end < step), 0)
                return FirstDifference(
                    kind=kind,
                    epoch=one["epoch"],
                    steps=(known + 1, step),
                    layers=() if kind == "data order" else _layers(one[key], other[key]),
                    same_until=previous,
                )
        previous = step
    return None


def _layers(one: Sequence[str], other: Sequence[str]) -> tuple[int, ...]:
    pairs = enumerate(zip_longest(one, other), start=1)
    return tuple(layer for layer, (left, right) in pairs if left != right)


def _metrics_difference(a: _Run, b: _Run) -> FirstDifference | None:
    previous = 0
    for epoch in _common(a.metrics, b.metrics):
        one, other = a.metrics[epoch], b.metrics[epoch]
        fields = tuple(_differing(_comparable(one, other)))
        step = min(_step_of(one), _step_of(other))
        if fields:
            # What has the same parameters behind it comes from the evaluation alone.
            are_parameters_same = _is_traced_same(a, b, step) or _common_weights(a, b)
            return FirstDifference(
                kind="evaluation" if are_parameters_same else "metrics",
                epoch=epoch,
                steps=(previous + 1, max(step, previous + 1)),
                fields=fields,
            )
        previous = step
    return None


def _same_epoch_ends(a: _Run, b: _Run, difference: FirstDifference | None) -> list[int]:
    """Return the last steps of the epochs before the metrics differ."""
    epochs = _common(a.metrics, b.metrics)
    return [
        _step_of(a.metrics[epoch])
        for epoch in epochs
        if difference is None or epoch < difference.epoch
    ]


def _is_traced_same(a: _Run, b: _Run, step: int) -> bool:
    if step not in a.trace or step not in b.trace:
        return False
    return bool(a.trace[step]["parameters"] == b.trace[step]["parameters"])


def _summary_difference(a: _Run, b: _Run) -> FirstDifference | None:
    """Compare what two trainings of the same length have ended with."""
    if not _have_same_length(a, b):
        return None
    fields = tuple(_differing(_comparable(a.summary, b.summary)))
    if not fields:
        return None
    is_weights = any(field.name == "weights_sha256" for field in fields)
    return FirstDifference(
        kind="weights" if is_weights else "scores",
        epoch=a.summary.get("num_epochs") or 0,
        steps=(1, a.summary["num_steps"]),
        fields=fields,
    )


def _comparable(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> dict[str, tuple[object, object]]:
    """Pair the values that both have, without times and what only says how long a run was to be."""
    return {
        name: (value, other[name])
        for name, value in one.items()
        if name in other and not name.endswith("_s") and name != "stopped_early"
    }


def _common(a: Mapping[int, Any], b: Mapping[int, Any]) -> list[int]:
    return sorted(a.keys() & b.keys())


def _step_of(line: Mapping[str, Any]) -> int:
    return int(line.get("step") or 0)


def _reach(a: _Run, b: _Run) -> tuple[int, int]:
    """Return the last epoch and step that both have."""
    ends = [
        *((epoch, _step_of(a.metrics[epoch])) for epoch in _common(a.metrics, b.metrics)[-1:]),
        *((a.trace[step]["epoch"], step) for step in _common(a.trace, b.trace)[-1:]),
        *(
            [(a.summary.get("num_epochs", 0), a.summary["num_steps"])]
            if _have_same_length(a, b)
            else []
        ),
    ]
    return max(ends, key=lambda end: end[1], default=(0, 0))


def _common_weights(a: _Run, b: _Run) -> str:
    digest = a.summary.get("weights_sha256")
    is_common = _have_same_length(a, b) and digest == b.summary.get("weights_sha256")
    return str(digest) if digest and is_common else ""


def _have_same_length(a: _Run, b: _Run) -> bool:
    """Whether both have finished, after as many steps."""
    num_steps = a.summary.get("num_steps")
    return num_steps is not None and bool(num_steps == b.summary.get("num_steps"))


def _compared(a: _Run, b: _Run) -> list[str]:
    """Name what both runs have."""
    found = []
    if epochs := _common(a.metrics, b.metrics):
        found.append(f"metrics of {_count(len(epochs), 'epoch')}")
    if steps := _common(a.trace, b.trace):
        found.append(f"traces of {_count(len(steps), 'step')} ({steps[0]} to {steps[-1]})")
    if _have_same_length(a, b):
        found.append("final weights and scores")
    return found


# Environment


def _compare_environments(a: _Run, b: _Run) -> tuple[list[FieldDifference], list[FieldDifference]]:
    """Return what differs: what bits may depend on, and what they don't."""
    causes = {**_CAUSES}
    harmless = {**_HARMLESS}
    (causes if any(map(_is_left_to_mpi, (a, b))) else harmless).update(_SPREAD)
    if _has_one_kernel(a) and _has_one_kernel(b):
        # They would only repeat library, version and kernel.
        del causes["BLAS kernels of the ranks"]
    pinned, pinned_threads = _compare_pinned(a, b)
    return (
        [*_histories(a, b, causes), *pinned, *_compare_flags(a, b)],
        [*_histories(a, b, harmless), *pinned_threads],
    )


def _is_left_to_mpi(run: _Run) -> bool:
    return bool(run.setting("training", "reduction") == "mpi")


def _histories(a: _Run, b: _Run, keys: Mapping[str, str]) -> Iterator[FieldDifference]:
    """Yield the fields that both runs tell, and differently."""
    for name, key in keys.items():
        one, other = (_history(run, [_lookup(s, key) for s in run.sessions]) for run in (a, b))
        if one and other and one != other:
            yield FieldDifference(name, f"{one} | {other}")


def _history(run: _Run, values: Iterable[object]) -> str:
    """Return a value of all sessions as text: once, or with the steps after which it changed."""
    parts: list[str] = []
    last = ""
    for session, value in zip(run.sessions, values, strict=True):
        text = "" if value is None else _fact(value)
        if text in {"", last}:
            continue
        last = text
        parts.append(f"after step {session.get('step', '?')} {text}" if parts else text)
    return ", ".join(parts)


def _fact(value: object) -> str:
    """Return a value as text, or the names that ranks are counted under."""
    if isinstance(value, Mapping):
        # How many ranks there are is told by itself.
        if len(value) == 1:
            return _value(next(iter(value)))
        return shorten(", ".join(f"{name} ({count})" for name, count in value.items()), 200)
    return _value(value)


def _lookup(session: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    found: Any = session
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _has_one_kernel(run: _Run) -> bool:
    """Whether all ranks computed with the kernel of the root."""
    return all(len(session.get("kernels") or ()) <= 1 for session in run.sessions)


def _compare_pinned(a: _Run, b: _Run) -> tuple[list[FieldDifference], list[FieldDifference]]:
    """Compare the variables that pin kernels, and those that only set the number of threads."""
    pinned = {run.name: [_lookup(s, "blas.pinned") for s in run.sessions] for run in (a, b)}
    names = {name for entries in pinned.values() for entry in entries for name in entry or ()}
    kernels: list[FieldDifference] = []
    threads: list[FieldDifference] = []
    for name in sorted(names):
        one, other = (
            _history(run, [None if e is None else e.get(name, "not set") for e in pinned[run.name]])
            for run in (a, b)
        )
        if one and other and one != other:
            # The threads that BLAS had in the end are told by themselves.
            of_threads = name.endswith("_NUM_THREADS")
            (threads if of_threads else kernels).append(FieldDifference(name, f"{one} | {other}"))
    return kernels, threads


def _compare_flags(a: _Run, b: _Run) -> Iterator[FieldDifference]:
    """Compare the CPU flags that the machines of all sessions had."""
    one, other = _flags(a), _flags(b)
    if one is not None and other is not None and one != other:
        yield FieldDifference(
            "CPU flags",
            f"only in {a.name}: {_listed(one - other)}; only in {b.name}: {_listed(other - one)}",
        )


def _flags(run: _Run) -> set[str] | None:
    told = [_lookup(session, "machine.cpu_flags") for session in run.sessions]
    known = [set(flags.split()) for flags in told if flags is not None]
    return set.intersection(*known) if known else None


def _listed(flags: set[str]) -> str:
    shown = sorted(flags)[:_NUM_SHOWN_FLAGS]
    more = len(flags) - len(shown)
    return (", ".join(shown) or "none") + (f" and {more} more" if more else "")


def _notes(a: _Run, b: _Run) -> Iterator[str]:
    for run in (a, b):
        if not run.facts:
            yield f"{run.name} has no run.json, so its environment is unknown."
        if not run.summary:
            yield f"{run.name} has not finished."
        if not _has_one_kernel(run):
            yield (
                f"The ranks of {run.name} computed with different BLAS kernels: its bits depend on "
                "which rank ran where."
            )
    one, another = (run.summary.get("num_epochs") for run in (a, b))
    if one and another and one != another:
        yield f"{a.name} ended after {_count(one, 'epoch')}, {b.name} after {another}."
    for run, other in ((a, b), (b, a)):
        if alone := list(_settings_of_one(run, other)):
            yield f"Only the configuration of {run.name} has {', '.join(alone)}."


def _settings_of_one(run: _Run, other: _Run) -> Iterator[str]:
    """Yield the settings that only one run has: it was trained by another version."""
    for section, fields in run.config.items():
        names = [name for name in fields if name not in other.config.get(section, {})]
        yield from (f"{section}.{name} = {fields[name]}" for name in names)


# Text


def _verdict(comparison: Comparison) -> str:
    first, settings = comparison.first, comparison.settings
    if settings:
        extent = _and_more(settings)
        if first is None and comparison.compared:
            return (
                f"The runs are set differently, {extent}, but all that both have is the same: "
                f"{_extent(comparison)}"
            )
        return f"The runs differ: they are different trainings, {extent}"
    if first is not None:
        causes = comparison.causes
        because = f"; environment differs: {_and_more(causes)}" if causes else ""
        return f"The runs differ: {_place(first)}{because}"
    if comparison.weights_sha256:
        return f"The runs are the same, bit for bit: {_extent(comparison)}"
    return f"The runs are the same as far as both have come: {_extent(comparison)}"


def _extent(comparison: Comparison) -> str:
    epoch, step = comparison.reach
    if comparison.weights_sha256:
        sha256 = _digest(comparison.weights_sha256)
        return f"{_count(step, 'step')}, weights_sha256 {sha256}"
    return f"up to step {step} of epoch {epoch}"


def _and_more(differences: Sequence[FieldDifference]) -> str:
    more = len(differences) - 1
    return str(differences[0]) + (f" (and {more} more, see below)" if more else "")


def _place(first: FirstDifference) -> str:
    """Return what differs and where, in half a sentence."""
    fields = ", ".join(field.name for field in first.fields)
    steps = f"steps {first.steps[0]} to {first.steps[1]}"
    if first.kind == "metrics":
        return f"{fields}, first in epoch {first.epoch} ({steps})"
    if first.kind == "evaluation":
        return f"{fields} of epoch {first.epoch}, with the same parameters: the evaluation"
    if first.kind == "weights":
        return f"final weights, after the same metrics in {_count(first.epoch, 'epoch')}"
    if first.kind == "scores":
        return f"only {fields}, with the same weights"
    layers = f", {_layer_names(first.layers)}" if first.layers else ""
    return f"{first.kind}, first at step {first.steps[1]} of epoch {first.epoch}{layers}"


def _layer_names(layers: Sequence[int]) -> str:
    return ("layer " if len(layers) == 1 else "layers ") + ", ".join(map(str, layers))


def _rows(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Yield the details as labels and texts."""
    yield "runs", " | ".join(comparison.names)
    yield "compared", ", ".join(comparison.compared) or "nothing: no epoch or step in common"
    for field in comparison.settings:
        yield "settings", f"{field.name}: {field.values}"
    if comparison.first is not None:
        yield from _rows_of_difference(comparison, comparison.first)
    width = max((len(field.name) for field in comparison.environment), default=0)
    for field in comparison.environment:
        yield "environment", f"{field.name:<{width}}  {field.values}"
    if comparison.harmless:
        fields = "; ".join(str(field) for field in comparison.harmless)
        yield "harmless", f"differ, but don't change the bits: {fields}"
    yield from (("note", note) for note in comparison.notes)


def _rows_of_difference(
    comparison: Comparison, first: FirstDifference
) -> Iterator[tuple[str, str]]:
    yield "same until", _same_until(first)
    if comparison.settings:
        yield "difference", _place(first)
    yield from (("difference", str(field)) for field in first.fields)
    if first.is_traced:
        yield "difference", _MEANINGS[first.kind]
        if not first.is_exact:
            yield "difference", _may_be_older(first)
    if not comparison.settings:
        yield "likely cause", _likely_cause(comparison, first)
    if first.kind in {"metrics", "weights"} or (first.is_traced and not first.is_exact):
        yield "to learn more", "train both again with --trace true, which tells the step"


_MEANINGS = {
    "data order": "the steps train on other rows",
    "gradient": "the same rows give another gradient",
    "parameters": "the same rows and gradient give other parameters",
}
_CAUSES_ELSE = {
    "data order": "seed, epoch and virtual ranks give the order, so it is Lockstep's error: "
    "perhaps a resumption at the wrong place",
    "gradient": "unknown: the environments are the same as far as they are recorded. "
    "If it doesn't happen again, suspect a machine's memory",
    "parameters": "the optimizer (its state or learning rate after a resumption), or a replica "
    "that was damaged in memory",
}


def _may_be_older(first: FirstDifference) -> str:
    begin, end = first.steps
    return (
        f"may be older: the traces don't both have step {end - 1}, so it came about anywhere in "
        f"steps {begin} to {end}"
    )


def _same_until(first: FirstDifference) -> str:
    if first.kind in {"weights", "scores"}:
        return f"the metrics of all {_count(first.epoch, 'epoch')}"
    if 0 < first.same_until == first.steps[0] - 1:
        return f"step {first.same_until}: rows, gradients and parameters"
    if first.steps[0] > 1:
        return f"step {first.steps[0] - 1}, the end of an epoch: its metrics"
    return "nothing, it is the first step" if first.is_exact else "nothing that is known"


def _likely_cause(comparison: Comparison, first: FirstDifference) -> str:
    if comparison.is_left_to_mpi and first.kind != "data order":
        return "training.reduction = mpi: any start may add up in another order"
    if comparison.causes:
        return "the environment (see below)"
    if first.kind == "gradient" and first.steps == (1, 1):
        return (
            "the initial weights or the kernels, since it is the first step; the environments are "
            "the same as far as they are recorded"
        )
    return _CAUSES_ELSE.get(first.kind, _CAUSES_ELSE["gradient"])


def _count(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"
