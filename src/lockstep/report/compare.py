"""The comparison of two runs: where they stop having the same bits, perhaps why, and as text."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lockstep.errors import UserError
from lockstep.report.compare_bits import FirstDifference, first_difference, reach
from lockstep.report.compare_environment import (
    Fields,
    compare_environments,
    compare_settings,
    likely_causes,
)
from lockstep.report.compare_runs import Run, common, have_same_length, read_runs, short_digest
from lockstep.storage.run_folder import RunFolder

_MEANINGS = {
    "data order": "the steps train on other rows",
    "gradient": "the same rows give another gradient",
    "parameters": "the same rows and gradient give other parameters",
}
_REMEDIES = {
    "BLAS kernel": "train both with the same kernel; OPENBLAS_CORETYPE chooses it",
    "reduction": "train both with --reduction ordered",
    "resumption": "train that run again without a stop",
}
# A longer pair of values is left out where it doesn't matter.
_HARMLESS_WIDTH = 20
_NUM_SHOWN_SETTINGS = 3


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common and where they differ.

    Parameters
    ----------
    a, b : Run
        The runs.
    first : FirstDifference or None
        Where the bits differ first; None when all that both runs have is the same.
    settings, causes, environment, harmless : list of FieldDifference
        Settings that define the result; what may have caused the difference; what else of
        versions, BLAS and machine bits may depend on; and what changes no bits.
    """

    a: Run
    b: Run
    first: FirstDifference | None
    settings: Fields
    causes: Fields
    environment: Fields
    harmless: Fields

    @property
    def is_same(self) -> bool:
        """Whether the runs mean the same and all that both have is the same, bit for bit."""
        return not self.settings and self.first is None


def compare(folder_a: RunFolder, folder_b: RunFolder) -> Comparison:
    """Find the first difference between two runs.

    Parameters
    ----------
    folder_a, folder_b : RunFolder
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
    a, b = read_runs(folder_a, folder_b)
    settings, harmless_settings = compare_settings(a, b)
    if not settings and not reach(a, b):
        raise UserError(
            f"There is nothing to compare yet: {a.name} and {b.name} have no finished epoch and no "
            "step of a trace in common. Let both train for an epoch at least."
        )
    first = first_difference(a, b)
    environment, harmless = compare_environments(a, b, first.step if first else math.inf)
    causes = likely_causes(a, b, environment, first) if first and not settings else []
    rest = [field for field in environment if field not in causes]
    return Comparison(a, b, first, settings, causes, rest, harmless_settings + harmless)


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


def _verdict(comparison: Comparison) -> str:
    a, b, first = comparison.a, comparison.b, comparison.first
    if comparison.settings:
        settings = ", ".join(map(str, comparison.settings[:_NUM_SHOWN_SETTINGS]))
        more = ", and more" * (len(comparison.settings) > _NUM_SHOWN_SETTINGS)
        is_same = reach(a, b) and not first
        same = f"; up to step {reach(a, b)}, their bits are the same" if is_same else ""
        return f"The runs differ in their settings: {settings}{more}{same}"
    weights = a.summary["weights_sha256"] if have_same_length(a, b) else ""
    if first:
        healed = weights and weights == b.summary["weights_sha256"]
        causes = ", ".join(field.name for field in comparison.causes)
        return (
            f"The runs differ: {_place(first)}"
            + (", with the same final weights" if healed else "")
            + (f"; likely cause: {causes}" if causes else "")
        )
    if weights:
        digest = short_digest(weights)
        steps = f"all {reach(a, b)} steps"
        return f"The runs are the same, bit for bit: {steps}, weights_sha256 {digest}"
    return f"The runs are the same as far as both have come: up to step {reach(a, b)}"


def _place(first: FirstDifference) -> str:
    """Return what differs and where, in half a sentence."""
    fields = ", ".join(field.name for field in first.fields)
    if first.kind == "metrics":
        return f"{fields}, first in epoch {first.epoch}"
    if first.kind in {"weights", "scores"}:
        return f"final {first.kind}, after the same metrics"
    layers = ", ".join(map(str, first.layers))
    of_layers = f" of layer{'s' * (len(first.layers) > 1)} {layers}" if layers else ""
    return f"{first.kind}{of_layers}, first at step {first.step} of epoch {first.epoch}"


def _rows(comparison: Comparison) -> Iterator[tuple[str, str]]:
    """Yield the details as labels and texts."""
    a, b, first = comparison.a, comparison.b, comparison.first
    yield "runs", f"{a.name} | {b.name}"
    if unfinished := [run.name for run in (a, b) if not run.summary]:
        yield "unfinished", ", ".join(unfinished)
    yield "compared", ", ".join(_compared(a, b)) or "nothing: no epoch or step in common"
    yield from (("settings", str(field)) for field in comparison.settings)
    if first and comparison.settings:
        yield "difference", _place(first)
    elif first:
        yield from _rows_of_difference(first, comparison.causes)
    yield from (("environment", str(field)) for field in comparison.environment)
    if comparison.harmless:
        fields = (
            str(field) if len(field.values) <= _HARMLESS_WIDTH else field.name
            for field in comparison.harmless
        )
        yield "harmless", ", ".join(fields)


def _compared(a: Run, b: Run) -> Iterator[str]:
    if epochs := common(a.metrics, b.metrics):
        yield f"metrics of epochs {epochs[0]} to {epochs[-1]}"
    if steps := common(a.trace, b.trace):
        yield f"traces of steps {steps[0]} to {steps[-1]}"
    if have_same_length(a, b):
        yield "final weights and scores"


def _rows_of_difference(first: FirstDifference, causes: Fields) -> Iterator[tuple[str, str]]:
    known = f"step {first.same_until}" if first.same_until else "the start"
    is_older = first.same_until + 1 < first.step
    span = f"; it came about in steps {first.same_until + 1} to {first.step}" if is_older else ""
    yield "same until", known + span
    if first.kind in _MEANINGS:
        yield "difference", _MEANINGS[first.kind]
    yield from (("difference", str(field)) for field in first.fields)
    yield from (("likely cause", str(cause)) for cause in causes)
    if not causes:
        yield "likely cause", "unknown: nothing that is recorded explains it"
    if is_older:
        yield "next", "train both again with --trace true, and compare them to know the step"
    elif causes:
        name = causes[0].name
        yield "next", _REMEDIES.get(name, f"train both with the same {name}")
    else:
        yield "next", "train both again: what doesn't come back was a machine's error"
