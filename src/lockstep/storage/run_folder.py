"""The run folder: the names of its files, and how they are written and read."""

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lockstep.errors import UserError
from lockstep.files import atomic_path


class RunFolderTakenError(UserError):
    """The folder belongs to another run."""


@dataclass(frozen=True)
class RunFolder:
    """One training's folder, usually `results/<run>`.

    Parameters
    ----------
    path : Path
        The folder. It need not exist yet.
    """

    path: Path

    @classmethod
    def create(cls, path: Path) -> "RunFolder":
        """Make a new folder, which no other run may share.

        Raises
        ------
        RunFolderTakenError
            When the folder exists already.
        UserError
            When it can't be made.
        """
        make_folder(path.parent)
        try:
            path.mkdir()
        except FileExistsError as error:
            raise RunFolderTakenError(
                f"{path} exists already, and two runs never share a folder: "
                "choose another --run-name, or remove the folder."
            ) from error
        except OSError as error:
            raise UserError(f"Can't make the run folder {path}: {error.strerror}.") from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """Return an existing run folder.

        Raises
        ------
        UserError
            When there is no run in `path`.
        """
        folder = cls(path)
        if not folder.config.is_file():
            raise UserError(
                f"{path} is no run folder: it holds no config.toml. "
                "Name the folder that `lockstep train` made, such as results/<run>."
            )
        return folder

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training in this folder; a process's end frees it too.

        Raises
        ------
        RunFolderTakenError
            When one of them does so at the moment.
        """
        with (self.path / ".lock").open("w", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise RunFolderTakenError(
                    f"Another process is training in {self.path} right now. Wait for it, or end it."
                ) from error
            except OSError:
                # Some shared file systems have no locks; then nobody is kept out.
                pass
            yield

    def remove_leftovers(self) -> None:
        """Remove what a kill has left of files that were being written."""
        for path in self.path.glob(".*.tmp"):
            path.unlink(missing_ok=True)

    @property
    def config(self) -> Path:
        """The resolved configuration, TOML."""
        return self.path / "config.toml"

    @property
    def run(self) -> Path:
        """Versions, hosts, ranks, data set and machine, JSON."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """One JSON object per epoch and line."""
        return self.path / "metrics.jsonl"

    @property
    def trace(self) -> Path:
        """Digests of every step, one JSON object per line; only where they were asked for."""
        return self.path / "trace.jsonl"

    @property
    def summary(self) -> Path:
        """The scores on the test split and the digest of the weights, JSON."""
        return self.path / "summary.json"

    @property
    def figures(self) -> Path:
        """The arrays that only the plots need, safetensors."""
        return self.path / "figures.safetensors"

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def plots(self) -> Path:
        """The folder of the plots."""
        return self.path / "plots"

    @property
    def report(self) -> Path:
        """The self-contained page."""
        return self.path / "report.html"


def make_folder(path: Path) -> None:
    """Make a folder, and those above it, where there is none.

    Raises
    ------
    UserError
        When it can't be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Can't make the folder {path}: {error.strerror}.") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, complete or not at all."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_json_line(path: Path, content: Mapping[str, Any]) -> None:
    """Append one JSON object as a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")


def cut_json_lines(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Keep the lines up to the first that `keep` refuses, if there is such a file.

    Raises
    ------
    UserError
        When a line isn't JSON.
    """
    if path.exists():
        kept = takewhile(keep, read_json_lines(path))
        lines = [json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in kept]
        write_text(path, "".join(lines))


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    UserError
        When the file is missing or isn't a JSON object.
    """
    content = _read(path, json.loads)
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold one JSON object.")
    return content


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object per line.

    What stands after the last line's end is left out: it was cut off in the middle of writing.

    Raises
    ------
    UserError
        When the file is missing or a line isn't JSON.
    """
    lines: list[dict[str, Any]] = _read(
        path, lambda text: [json.loads(line) for line in text.split("\n")[:-1]]
    )
    return lines


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write named arrays as a safetensors file, complete or not at all."""
    write_safetensors(path, {name: np.ascontiguousarray(array) for name, array in arrays.items()})


def write_safetensors(
    path: Path, arrays: dict[str, NDArray[Any]], header: dict[str, str] | None = None
) -> None:
    """Write contiguous arrays and a header as a safetensors file, complete or not at all.

    Raises
    ------
    OSError
        When the file can't be written.
    """
    with atomic_path(path) as temporary:
        try:
            save_file(arrays, temporary, metadata=header)
        except SafetensorError as error:
            raise OSError(f"Can't write {path}: {error}") from error


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read the named arrays of a safetensors file.

    Raises
    ------
    UserError
        When the file is missing or damaged.
    """
    try:
        arrays: dict[str, NDArray[Any]] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"Can't read {path}: {error}.") from error
    return arrays


def _read(path: Path, parse: Callable[[str], Any]) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from error
