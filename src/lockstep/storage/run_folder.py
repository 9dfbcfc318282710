"""The run folder: the names of its files, and how they are written and read."""

import fcntl
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count, takewhile
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


_RESERVED = ".reserved"
# How long a process may take to end that was told to.
_DYING_S = 20


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
            if cls(path).take_reservation():
                return cls(path)
            raise RunFolderTakenError(
                f"{path} exists already, and two runs never share a folder: "
                "choose another --run-name, or remove the folder."
            ) from error
        except OSError as error:
            raise UserError(f"Can't make the run folder {path}: {error.strerror}.") from error
        return cls(path)

    @classmethod
    def create_next(cls, results: Path, dataset_name: str) -> "RunFolder":
        """Make a new folder in `results`, named after the data set and the time.

        Raises
        ------
        UserError
            When it can't be made.
        """
        made_up = f"{dataset_name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        # Jobs that start in the same second are no rarity on a cluster.
        for attempt in count(1):
            candidate = results / (made_up if attempt == 1 else f"{made_up}-{attempt}")
            if not candidate.exists():
                with suppress(RunFolderTakenError):
                    return cls.create(candidate)
        raise AssertionError("counting never ends")

    @classmethod
    def claim(cls, results: Path, name: str, dataset_name: str) -> "RunFolder":
        """Make a new folder in `results`, with a name or with one that is made up.

        Raises
        ------
        UserError
            When it is no plain name, another run has it, or it can't be made.
        """
        if Path(name).name != name or name == "..":
            raise UserError(f"--run-name {name}: a plain name, please; --results names the folder.")
        return cls.create(results / name) if name else cls.create_next(results, dataset_name)

    @property
    def finished_ns(self) -> int | None:
        """When the run was finished, in nanoseconds of the system's clock; None if it isn't."""
        try:
            return self.summary.stat().st_mtime_ns
        except OSError:
            return None

    def reserve(self) -> None:
        """Leave the folder, which is new, to the process that creates it next."""
        (self.path / _RESERVED).touch()

    def take_reservation(self) -> bool:
        """Return whether the folder was reserved, which it is no more."""
        try:
            # Of several processes, one can do it.
            (self.path / _RESERVED).unlink()
        except OSError:
            return False
        return True

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
        # Opened for appending: whatever is there under that name is not emptied.
        with (self.path / ".lock").open("a", encoding="utf-8") as file:
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

    def wait_until_free(self) -> None:
        """Wait, though not for ever, until no dying process has the lock any more."""
        end_s = time.monotonic() + _DYING_S
        while self.path.is_dir() and time.monotonic() < end_s:
            with suppress(RunFolderTakenError), self.lock():
                return
            time.sleep(0.1)

    def discard(self) -> None:
        """Remove the folder of a run that was ended before it had written anything."""
        with suppress(OSError):
            self.remove_leftovers()
            self.take_reservation()
            for path in (self.path / ".lock", self.jobs, self.job_script):
                path.unlink(missing_ok=True)
            if self.job.exists():
                self.job.rmdir()
            self.path.rmdir()

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
    def job(self) -> Path:
        """The folder of what a batch scheduler has to do with the run."""
        return self.path / "job"

    @property
    def job_script(self) -> Path:
        """The script of the run's jobs."""
        return self.job / "script.sh"

    @property
    def jobs(self) -> Path:
        """The run's jobs, one JSON object per event and line."""
        return self.job / "history.jsonl"

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
    content = _read(path, _parse)
    if not isinstance(content, dict):
        raise UserError(f"{path} should hold one JSON object.")
    return content


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of one JSON object per line.

    What stands after the last line's end is left out: it was cut off in the middle of writing.

    Raises
    ------
    UserError
        When the file is missing or a line isn't a JSON object.
    """
    lines: list[dict[str, Any]] = _read(
        path, lambda text: [_parse(line) for line in text.split("\n")[:-1]]
    )
    if not all(isinstance(line, dict) for line in lines):
        raise UserError(f"{path} is damaged: a line is no JSON object.")
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
    except (OSError, SafetensorError, AttributeError, KeyError, TypeError) as error:
        # The last three tell of element types that safetensors knows and NumPy does not.
        raise UserError(f"Can't read {path}: {error}.") from error
    return arrays


def _read(path: Path, parse: Callable[[str], Any]) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Can't read {path}: {error.strerror}.") from error
    except RecursionError as error:
        raise UserError(f"{path} is damaged: its values are nested too deeply.") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}.") from error


def _parse(text: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    """Refuse what Python takes for JSON and nothing here writes: NaN and infinity."""
    raise ValueError(f"{name} is no JSON")
