"""The first difference in the bits of two runs: a walk along all that both have written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from lockstep.report.compare_runs import FieldDifference, Run, common, differing, have_same_length

# What a line of the trace tells, in the order in which a step goes.
_TRACED = {"data order": "batch", "gradient": "gradient", "parameters": "parameters"}


@dataclass(frozen=True)
class FirstDifference:
    """The first place where two runs have other bits.

    Parameters
    ----------
    kind : str
        "data order", "gradient" or "parameters" of a step, as the traces tell; "metrics" of an
        epoch; "weights" when only the final ones differ; "scores" when not even these do.
    step, epoch : int
        Where it shows.
    same_until : int
        The last step before it that is known to be the same; 0 when there is none.
    layers : tuple of int
        The layers that differ, counted from 1.
    fields : tuple of FieldDifference
        Of the metrics or the summary.
    """

    kind: str
    step: int
    epoch: int
    same_until: int
    layers: tuple[int, ...] = ()
    fields: tuple[FieldDifference, ...] = ()


def first_difference(a: Run, b: Run) -> FirstDifference | None:
    """Walk along the steps and the ends of epochs that both runs have.

    Parameters
    ----------
    a, b : Run
        The runs.

    Returns
    -------
    FirstDifference or None
        None when all that both have is the same.
    """
    epochs, traced, same_until = _epochs_by_end(a, b), set(common(a.trace, b.trace)), 0
    for step in sorted(traced | epochs.keys()):
        if step in traced:
            found = _compare_step(step, a.trace[step], b.trace[step], same_until)
            if found:
                return found
            same_until = step
        if step in epochs:
            epoch = epochs[step]
            fields = _differing_results(a.metrics[epoch], b.metrics[epoch])
            if fields:
                return FirstDifference("metrics", step, epoch, same_until, fields=fields)
            same_until = step
    return _compare_ends(a, b, max(traced, default=0)) if have_same_length(a, b) else None


def reach(a: Run, b: Run) -> int:
    """Return the last step that both runs tell of; 0 when there is none."""
    end: int = a.summary["num_steps"] if have_same_length(a, b) else 0
    return max([end, *common(a.trace, b.trace), *_epochs_by_end(a, b)])


def _epochs_by_end(a: Run, b: Run) -> dict[int, int]:
    """Return the epochs that both runs have by their last steps."""
    return {a.metrics[epoch]["step"]: epoch for epoch in common(a.metrics, b.metrics)}


def _compare_step(
    step: int, one: Mapping[str, Any], other: Mapping[str, Any], same_until: int
) -> FirstDifference | None:
    for kind, key in _TRACED.items():
        if one[key] != other[key]:
            layers = () if kind == "data order" else _layers(one[key], other[key])
            return FirstDifference(kind, step, one["epoch"], same_until, layers)
    return None


def _layers(one: Sequence[str], other: Sequence[str]) -> tuple[int, ...]:
    pairs = enumerate(zip_longest(one, other), start=1)
    return tuple(layer for layer, (left, right) in pairs if left != right)


def _compare_ends(a: Run, b: Run, traced_until: int) -> FirstDifference | None:
    """Compare what two trainings of the same length and with the same metrics have ended with."""
    fields = _differing_results(a.summary, b.summary)
    if not fields:
        return None
    step, epoch = a.summary["num_steps"], a.summary["num_epochs"]
    if a.summary["weights_sha256"] == b.summary["weights_sha256"]:
        return FirstDifference("scores", step, epoch, step, fields=fields)
    return FirstDifference("weights", step, epoch, traced_until, fields=fields)


def _differing_results(
    one: Mapping[str, Any], other: Mapping[str, Any]
) -> tuple[FieldDifference, ...]:
    """Compare metrics or summaries, without times and what only says how long a run was to be."""
    fields = differing(one, other)
    return tuple(f for f in fields if not f.name.endswith("_s") and f.name != "stopped_early")
