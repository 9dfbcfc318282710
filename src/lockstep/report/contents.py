"""What a run folder holds, as far as the run has come."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from lockstep.errors import UserError
from lockstep.storage.run_folder import RunFolder, read_arrays, read_json, read_json_lines

Metrics = Sequence[Mapping[str, Any]]
_Content = TypeVar("_Content")

# What can be drawn and added up.
_Number = Annotated[int, Meta(ge=-(2**53), le=2**53)] | Annotated[float, Meta(ge=-1e100, le=1e100)]
_Count = Annotated[int, Meta(ge=0, le=2**53)]


class _Dataset(TypedDict, total=False):
    name: str | None
    content_sha256: str | None
    feature_shape: list[_Count] | None
    class_names: list[str] | None


class _Session(TypedDict, total=False):
    step: _Count
    started: str | None
    world_size: _Count | None
    hosts: dict[str, _Count] | None
    kernels: dict[str, _Count] | None
    versions: dict[str, Any] | None
    blas: dict[str, Any] | None
    machine: dict[str, Any] | None
    reduction: str | None


class _Run(_Session, total=False):
    run: str
    network: str | None
    num_parameters: _Count | None
    virtual_ranks: _Count | None
    dataset: _Dataset | None
    resumed: list[_Session] | None


_ClassScores = TypedDict(
    "_ClassScores",
    {
        "class": str,
        "precision": _Number | None,
        "recall": _Number | None,
        "f1": _Number | None,
        "support": _Count | None,
    },
    total=False,
)


class _Summary(TypedDict, total=False):
    test_accuracy: _Number | None
    test_correct: _Count | None
    test_total: _Count | None
    macro_f1: _Number | None
    best_val_accuracy: _Number | None
    confusion_matrix: list[list[_Count]] | None
    per_class: list[_ClassScores] | None
    weights_sha256: str | None
    num_steps: _Count | None
    num_epochs: _Count | None
    best_epoch: _Count | None
    stopped_early: bool | None
    wall_time_s: _Number | None


@dataclass(frozen=True)
class RunContents:
    """The files of a run folder, each empty where it is missing or damaged.

    Parameters
    ----------
    config : str
        The text of `config.toml`.
    run, summary : dict
        `run.json` and `summary.json`.
    metrics : list of dict
        `metrics.jsonl`: one object per epoch, in order, none twice.
    figures : dict of str to ndarray
        `figures.safetensors`.
    missing : list of str
        A sentence for each file that isn't there.
    unreadable : dict of str to str
        By the name of each file that is damaged, a sentence that says how.
    """

    config: str = ""
    run: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, NDArray[Any]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        """What to tell the reader about the files."""
        return [*self.unreadable.values(), *self.missing]

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of one sample; empty when unknown."""
        return tuple(self._dataset.get("feature_shape") or ())

    @property
    def class_names(self) -> list[str]:
        """The names of the classes; empty when unknown."""
        names = self._dataset.get("class_names")
        if names is None:
            names = [line["class"] for line in self.summary.get("per_class") or ()]
        return [str(name) for name in names]

    @property
    def best_epoch(self) -> int | None:
        """The epoch with the most correct validation samples: as the run says, or by counting."""
        said: int | None = self.summary.get("best_epoch")
        if said is not None:
            return said
        epochs, correct = points(self.metrics, "val_correct")
        return int(epochs[np.argmax(correct)]) if len(epochs) else None

    @property
    def _dataset(self) -> dict[str, Any]:
        return self.run.get("dataset") or {}


def read_run(folder: RunFolder) -> RunContents:
    """Read whatever a run has written so far.

    Parameters
    ----------
    folder : RunFolder
        A run, finished or not.

    Returns
    -------
    RunContents
        Its files; the missing and the damaged are named.
    """
    missing: list[str] = []
    unreadable: dict[str, str] = {}

    def attempt(read: Callable[[Path], _Content], path: Path, otherwise: _Content) -> _Content:
        if not path.exists():
            missing.append(f"This run has no {path.name} (yet).")
            return otherwise
        try:
            return read(path)
        except UserError as error:
            unreadable[path.name] = str(error).replace(str(path), path.name)
            return otherwise

    return RunContents(
        config=attempt(_read_text, folder.config, ""),
        run=attempt(_read_facts, folder.run, {}),
        summary=attempt(_read_summary, folder.summary, {}),
        metrics=attempt(_read_metrics, folder.metrics, []),
        figures=attempt(_read_figures, folder.figures, {}),
        missing=missing,
        unreadable=unreadable,
    )


def points(metrics: Metrics, key: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the epochs that have a value, and their values.

    Parameters
    ----------
    metrics : sequence of mapping
        One object per epoch.
    key : str
        Which of their values.

    Returns
    -------
    tuple of ndarray
        Epochs and values, equally long; epochs without a value are left out.
    """
    known = [line for line in metrics if line.get(key) is not None]
    epochs = np.array([line["epoch"] for line in known], dtype=np.int64)
    return epochs, np.array([line[key] for line in known], dtype=np.float64)


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """Sort by epoch; of an epoch that a resumed run repeated, the last line counts."""
    lines = read_json_lines(path)
    _check(path, lines, list[dict[str, _Number | None]])
    if not all(type(line.get("epoch")) is int for line in lines):
        raise UserError(f"{path} is damaged: a line isn't the object of an epoch.")
    by_epoch = {line["epoch"]: line for line in lines}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _read_facts(path: Path) -> dict[str, Any]:
    facts = read_json(path)
    _check(path, facts, _Run)
    return facts


def _read_summary(path: Path) -> dict[str, Any]:
    summary = read_json(path)
    _check(path, summary, _Summary)
    matrix = summary.get("confusion_matrix") or []
    if any(len(row) != len(matrix) for row in matrix):
        raise UserError(f"{path} is damaged: its confusion_matrix is not square.")
    return summary


def _check(path: Path, content: object, kind: object) -> None:
    """See that what is known by name has the right type; there may be more."""
    try:
        msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{path} is damaged: {str(error).replace('`', '')}.") from error


def _read_figures(path: Path) -> dict[str, NDArray[Any]]:
    figures = read_arrays(path)
    mistakes = [array for name, array in figures.items() if name.startswith("mistakes.")]
    weight = figures.get("first_layer.weight")
    if len({array.shape[:1] for array in mistakes}) > 1 or (
        weight is not None and weight.ndim != 2
    ):
        raise UserError(f"{path} is damaged: its arrays don't fit together.")
    return figures


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
