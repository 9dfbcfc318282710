"""Checkpoints: one safetensors file each, complete or absent, with a digest of its content."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from lockstep.arrays import Array
from lockstep.errors import UserError
from lockstep.storage.run_folder import write_safetensors, write_text

_FORMAT = "lockstep-checkpoint"
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """What a run is at one step.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        Parameters, optimizer state and input scaling, by name.
    facts : mapping
        Everything else, as JSON can hold it; `step` is among it.
    """

    arrays: Mapping[str, Array]
    facts: Mapping[str, Any]


class CheckpointStore:
    """The checkpoints of a run, `step-00001234.safetensors` and so on.

    The text files `latest` and `best` name one of them each.

    Parameters
    ----------
    folder : Path
        Made with the first checkpoint.
    keep : int
        How many of the newest are kept; the best one always is.
    """

    def __init__(self, folder: Path, keep: int = 1) -> None:
        self._folder = folder
        self._keep = keep

    def save(self, checkpoint: Checkpoint, *, is_best: bool) -> Path:
        """Write a checkpoint, then point `latest` (and `best`) to it, then remove old ones.

        Parameters
        ----------
        checkpoint : Checkpoint
            What to write.
        is_best : bool
            Whether it has the best validation score so far.

        Returns
        -------
        Path
            The new file.
        """
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"step-{checkpoint.facts['step']:08}.safetensors"
        arrays = {name: np.ascontiguousarray(a) for name, a in checkpoint.arrays.items()}
        facts = json.dumps(checkpoint.facts, allow_nan=False)
        header = {
            "format": _FORMAT,
            "format_version": str(_FORMAT_VERSION),
            "facts": facts,
            "content_sha256": _digest(arrays, f"{_FORMAT_VERSION}{facts}"),
        }
        write_safetensors(path, arrays, header)
        write_text(self._folder / "latest", path.name + "\n")
        if is_best:
            write_text(self._folder / "best", path.name + "\n")
        self._prune()
        return path

    def load(self, which: str) -> Checkpoint:
        """Read a checkpoint.

        Parameters
        ----------
        which : str
            "latest" or "best".

        Raises
        ------
        UserError
            When there is none, or it is damaged.
        """
        return read_checkpoint(self._folder / self._named(which))

    def _named(self, which: str) -> str:
        pointer = self._folder / which
        try:
            name = pointer.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise UserError(
                f"There is no checkpoint in {self._folder}: {pointer.name} can't be read "
                f"({error.strerror}). Reference results are kept without their checkpoints; "
                "train the run again from its config.toml."
            ) from error
        if not name.startswith("step-") or Path(name).name != name:
            raise UserError(f"{pointer} should name a checkpoint beside it, not {name!r}.")
        return name

    def _prune(self) -> None:
        best = self._folder / "best"
        spared = self._named("best") if best.is_file() else None
        by_step = sorted(self._folder.glob("step-*.safetensors"), key=_step_of)
        for old in by_step[: -self._keep]:
            if old.name != spared:
                old.unlink()


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file and check its digest.

    Raises
    ------
    UserError
        When it is missing, foreign, written by a newer version, or damaged.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (OSError, SafetensorError) as error:
        raise UserError(f"Can't read the checkpoint {path}: {error}.") from error
    if header.get("format") != _FORMAT:
        raise UserError(f"{path} is no checkpoint of Lockstep.")
    version, facts = header.get("format_version", ""), header.get("facts", "")
    if version.isdecimal() and int(version) > _FORMAT_VERSION:
        raise UserError(f"{path} was written by a newer Lockstep; update this one.")
    if header.get("content_sha256") != _digest(arrays, version + facts):
        raise UserError(f"{path} is damaged: its content does not match its digest.")
    return Checkpoint(arrays, json.loads(facts))


def _digest(arrays: Mapping[str, Array], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
