"""What a run folder holds, as far as the run has come."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from lockstep.errors import UserError
from lockstep.storage.run_folder import RunFolder, read_arrays, read_json, read_json_lines

Metrics = Sequence[Mapping[str, Any]]
_Content = TypeVar("_Content")


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
    problems : list of str
        Which files couldn't be read, and why.
    """

    config: str = ""
    run: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, NDArray[Any]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

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
        Its files; the missing and the damaged are named in `problems`.
    """
    problems: list[str] = []

    def attempt(read: Callable[[Path], _Content], path: Path, otherwise: _Content) -> _Content:
        if not path.exists():
            problems.append(f"This run has no {path.name} (yet).")
            return otherwise
        try:
            return read(path)
        except UserError as error:
            problems.append(str(error).replace(str(path), path.name))
            return otherwise

    return RunContents(
        config=attempt(_read_text, folder.config, ""),
        run=attempt(read_json, folder.run, {}),
        summary=attempt(read_json, folder.summary, {}),
        metrics=_each_epoch_once(attempt(read_json_lines, folder.metrics, [])),
        figures=attempt(read_arrays, folder.figures, {}),
        problems=problems,
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


def _each_epoch_once(metrics: Metrics) -> list[dict[str, Any]]:
    """Sort by epoch; of an epoch that a resumed run repeated, the last line counts."""
    by_epoch = {line["epoch"]: dict(line) for line in metrics}
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]


def _read_text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
