"""Cells and notes that the pages of several benchmarks share."""

from collections.abc import Iterable, Mapping


def ranks_cell(num_ranks: int, *, is_crowded: bool) -> str:
    """Write a number of ranks, with a mark that `notes_on_cores` explains."""
    return f"{num_ranks}{'*' if is_crowded else ''}"


def notes_on_cores(are_crowded: Iterable[bool]) -> list[str]:
    """Return what the mark of `ranks_cell` means, if any of the measurements has it."""
    note = "*: more ranks than cores, so every step also waits for a core."
    return [note] if any(are_crowded) else []


def notes_on_absent(reasons: Iterable[Mapping[str, str]]) -> list[str]:
    """Return who took no part.

    Parameters
    ----------
    reasons : iterable of mapping of str to str
        Of each measurement: the reason by name. Most are absent for one reason everywhere, which
        is told once.
    """
    pairs = dict.fromkeys(pair for by_name in reasons for pair in by_name.items())
    return [f"Without {name}: {reason}." for name, reason in pairs]
