"""What a search is: read from a TOML file, and drawn into the options of each trial."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal
from zlib import crc32

import msgspec
import numpy as np
from msgspec import Meta

from lockstep.config import FIELDS, load_config, near_misses, read_toml
from lockstep.errors import UserError
from lockstep.streams import Purpose, philox

# Fields that say where a training runs, how its numbers are added and what it keeps, not what it
# learns.
_NOT_SEARCHED = {
    "checkpoint_every_steps", "checkpoint_every_minutes", "keep_checkpoints", "stall_timeout_s",
    "replica_check_every", "trace", "threads_per_rank", "virtual_ranks", "reduction",
}  # fmt: skip
_MOST_TRIALS = 10_000

Options = dict[str, str]


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, drawn evenly or evenly in their logarithm."""

    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"


# What a field is drawn from.
Choices = list[Any] | Range


@dataclass(frozen=True)
class Sweep:
    """The section `[sweep]`.

    Parameters
    ----------
    method : str
        "random": each trial's values are drawn. "grid": all combinations.
    trials : int
        How many, for "random".
    seed : int
        Of the draws.
    config : str
        Configuration file that all trials begin with.
    ranks_per_trial : int
        MPI ranks of each, as far as there are so many; the others work on other trials meanwhile.
    min_epochs : int
        After so many epochs the best trials are chosen, which go on; 0: all go to the end.
    factor : int
        One of so many goes on, for so many times the epochs.
    """

    method: Literal["random", "grid"]
    trials: Annotated[int, Meta(ge=1, le=_MOST_TRIALS)] = 1
    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0
    config: str = ""
    ranks_per_trial: Annotated[int, Meta(ge=1)] = 1
    min_epochs: Annotated[int, Meta(ge=0)] = 0
    factor: Annotated[int, Meta(ge=2)] = 3


@dataclass(frozen=True)
class Spec:
    """A whole search.

    Parameters
    ----------
    sweep : Sweep
        How to search.
    space : dict
        By field: a list of choices, or a `Range`.
    fixed : dict
        Fields that are the same for all trials.
    """

    sweep: Sweep
    space: dict[str, Choices]
    fixed: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> "Spec":
        """Read it from a file.

        Raises
        ------
        UserError
            Naming the entry that won't do.
        """
        content = read_toml(path)
        for where, entries, known in _tables(content):
            names = [own.name for own in fields(known)]
            for name in entries:
                if name not in names:
                    hint = near_misses(name, names)
                    raise UserError(f"{path}: {name}: no such entry in {where}{hint}")
        _check_choices(path, content)
        try:
            spec = msgspec.convert(content, cls)
        except msgspec.ValidationError as error:
            raise UserError(
                f"{path}: {_reason(error)}. A search has the sections [sweep], [space] and "
                "[fixed]; see launch/presets/sweep.toml."
            ) from error
        for problem in spec.problems():
            raise UserError(f"{path}: {problem}")
        return spec

    def problems(self) -> list[str]:
        """Return what is wrong beyond the types."""
        found = []
        if not self.space:
            found.append("[space] is empty: name at least one field with its choices.")
        for name, values in self.space.items():
            reason = self._field_problem(name)
            if not reason and isinstance(values, Range):
                reason = self._range_problem(name, values)
            elif not reason and not values:
                reason = "it has no choices."
            reason = reason or _value_problem(name, values)
            if reason:
                found.append(f"[space] {name}: {reason}")
        if self.sweep.method == "grid":
            num_trials = math.prod(len(v) for v in self.space.values() if isinstance(v, list))
            if num_trials > _MOST_TRIALS:
                found.append(f"The grid has {num_trials} trials, more than {_MOST_TRIALS}.")
        return found

    def _field_problem(self, name: str) -> str:
        if name not in FIELDS:
            return f"no such field{near_misses(name, FIELDS)}"
        if FIELDS[name].section == "data" or name in _NOT_SEARCHED:
            return "that is nothing to search for. Put it under [fixed]."
        if name in self.fixed:
            return "it is under [fixed] too."
        if name == "epochs" and self.sweep.min_epochs:
            return "it can't vary where min_epochs chooses who goes on."
        return ""

    def _range_problem(self, name: str, values: Range) -> str:
        if self.sweep.method == "grid":
            return 'a grid needs a list of choices, a range needs method = "random".'
        if FIELDS[name].type_name not in {"number", "whole number"}:
            return "it is no number, so it needs a list of choices."
        if not values.low < values.high:
            return f"low = {values.low} is not below high = {values.high}."
        if values.scale == "log" and values.low <= 0:
            return f"a logarithmic range begins above 0, not at {values.low}."
        is_whole = values.low.is_integer() and values.high.is_integer()
        if _is_whole_number(name) and not is_whole:
            return f"its ends are whole numbers, not {values.low} and {values.high}."
        return ""

    @property
    def base(self) -> Path | None:
        """The file that all trials begin with, if there is one."""
        return Path(self.sweep.config) if self.sweep.config else None

    def trials(self) -> list[Options]:
        """Return each trial's own options, as text; see `lockstep.config.load_config`.

        A trial's draws follow from the seed and its number alone, so a longer search begins with
        the trials of a shorter one.
        """
        if self.sweep.method == "grid":
            combinations = product(*self.space.values())  # type: ignore[arg-type]
            return [
                dict(zip(self.space, map(_text, values), strict=True)) for values in combinations
            ]
        return [self._draw(number) for number in range(self.sweep.trials)]

    def _draw(self, trial: int) -> Options:
        options = {}
        for name, values in self.space.items():
            # A part of its own for each field, which follows from its name alone: what is added to
            # the space, or to the configuration, leaves the others as they are.
            part = crc32(name.encode())
            random = np.random.Generator(philox(self.sweep.seed, Purpose.SEARCH, trial, part=part))
            if isinstance(values, Range):
                drawn = _draw_number(random, values, is_whole=_is_whole_number(name))
                options[name] = _text(drawn)
            else:
                options[name] = _text(values[random.integers(len(values))])
        return options

    def options(self, trial: Mapping[str, str]) -> Options:
        """Return a trial's options with those that all have."""
        return {name: _text(value) for name, value in self.fixed.items()} | dict(trial)

    def rungs(self, epochs: int) -> list[int]:
        """Return the epochs after which it is chosen who goes on; the last one is the end.

        References
        ----------
        K. Jamieson, A. Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter
        Optimization", AISTATS (2016), algorithm 1 (successive halving), where one of `factor` goes
        on instead of one of two.
        """
        rungs = []
        rung = self.sweep.min_epochs
        while 0 < rung < epochs:
            rungs.append(rung)
            rung *= self.sweep.factor
        return [*rungs, epochs]

    def as_json(self) -> dict[str, Any]:
        """Return all of it, for comparison with another one."""
        content: dict[str, Any] = asdict(self)
        return content


def _tables(content: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], type]]:
    """Yield the tables of which all entries are known: where, what they hold, and what it means."""
    tables = [
        ("the file", content, Spec),
        ("[sweep]", content.get("sweep"), Sweep),
        *((f"[space] {name}", values, Range) for name, values in _space_of(content).items()),
    ]
    for where, entries, known in tables:
        if isinstance(entries, dict):
            yield where, entries, known


def _space_of(content: dict[str, Any]) -> dict[str, Any]:
    """Return the section `[space]`; nothing if it is none."""
    space = content.get("space")
    return space if isinstance(space, dict) else {}


def _check_choices(path: Path, content: dict[str, Any]) -> None:
    """See that each entry of `[space]` is of the right type: msgspec doesn't tell which is not.

    Raises
    ------
    UserError
        Naming it.
    """
    for name, values in _space_of(content).items():
        try:
            msgspec.convert(values, Choices)
        except msgspec.ValidationError as error:
            raise UserError(
                f"{path}: [space] {name}: {_reason(error)}. Give it a list of choices, or a range "
                "like { low = 1, high = 2 }."
            ) from error


def _reason(error: msgspec.ValidationError) -> str:
    return str(error).replace("`", "").replace("$.", "")


def _is_whole_number(name: str) -> bool:
    return FIELDS[name].type_name == "whole number"


def _value_problem(name: str, values: Choices) -> str:
    """Return what is wrong with a choice or an end of a range, drawn or not."""
    if isinstance(values, Range):
        kind = int if _is_whole_number(name) else float
        values = [kind(values.low), kind(values.high)]
    try:
        for value in values:
            load_config(None, {name: _text(value)})
    except UserError as error:
        return str(error)
    return ""


def _draw_number(random: np.random.Generator, values: Range, *, is_whole: bool) -> float:
    low, high = values.low, values.high
    if is_whole:
        # Each stands for what is rounded to it, the ends too.
        low, high = low - 0.5, high + 0.5
    if values.scale == "log":
        drawn = math.exp(random.uniform(math.log(low), math.log(high)))
    else:
        drawn = random.uniform(low, high)
    if not is_whole:
        # Four digits are easily copied, and no two trials need more to differ.
        return min(max(float(f"{drawn:.4g}"), low), high)
    return int(min(max(round(drawn), values.low), values.high))


def _text(value: Any) -> str:  # noqa: ANN401 - whatever TOML can hold
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(_text, value))
    return str(value)
