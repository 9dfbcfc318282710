"""Checkpoints: one safetensors file each, complete or absent, with a digest of its content."""

import contextlib
import hashlib
import json
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from lockstep.arrays import Array
from lockstep.errors import UserError
from lockstep.files import sync
from lockstep.storage.run_folder import write_safetensors, write_text

_FORMAT = "lockstep-checkpoint"
_FORMAT_VERSION = 1
# A pointer holds one name, which file systems limit to this.
_MAX_NAME_BYTES = 255
_MAX_STEPS = 2**63
# Of a save that was killed: ours, and what the safetensors library writes before it renames.
_STALE = (".step-*.tmp", ".latest*.tmp", ".best*.tmp", ".tmp??????")


class NewerCheckpointError(UserError):
    """A later version of Lockstep wrote the checkpoint, which is not damaged."""


class UnreadableCheckpointError(UserError):
    """The file can't be read at the moment, which says nothing about its content."""


@dataclass(frozen=True)
class Checkpoint:
    """What a run is at one step.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        Parameters, optimizer state and input scaling, by name.
    facts : mapping
        Everything else, as JSON can hold it; `step` is among it.
    name : str
        What to call it in messages.
    """

    arrays: Mapping[str, Array]
    facts: Mapping[str, Any]
    name: str = "The checkpoint"


class CheckpointStore:
    """The checkpoints of a run, `step-00001234.safetensors` and so on.

    The text files `latest` and `best` name one of them each.

    A save can be cut off anywhere, by a kill, a full disk or a power failure, and leaves the
    checkpoint before it or the new one, whole. Each file is written under a temporary name in the
    same folder, synced to disk, renamed, and then the folder is synced. The checkpoint comes
    first, then `latest`, then `best`; only when all three are on disk, old checkpoints go.
    What a cut leaves behind, a temporary file or a pointer that lags behind, `newest` mends.

    Parameters
    ----------
    folder : Path
        Made with the first checkpoint.
    keep : int
        How many of the newest are kept, at least 1; the best one always is.
    """

    def __init__(self, folder: Path, keep: int = 1) -> None:
        self._folder = folder
        self._keep = keep

    def save(self, checkpoint: Checkpoint, *, is_best: bool) -> Path:
        """Write a checkpoint, then point `latest` (and `best`) to it, then remove old ones.

        Parameters
        ----------
        checkpoint : Checkpoint
            What to write. If its facts have `best_step`, the checkpoint of that step is the best
            one, whatever `best` says.
        is_best : bool
            Whether it has the best validation score so far.

        Returns
        -------
        Path
            The new file.

        Raises
        ------
        OSError
            When it can't be written. The checkpoints before it are still there.
        """
        self._make_folder()
        path = self._path_of(checkpoint.facts["step"])
        arrays = {name: _storable(array) for name, array in checkpoint.arrays.items()}
        facts = json.dumps(checkpoint.facts, allow_nan=False)
        header = {
            "format": _FORMAT,
            "format_version": str(_FORMAT_VERSION),
            "facts": facts,
            "content_sha256": _digest(arrays, f"{_FORMAT_VERSION}{facts}"),
        }
        write_safetensors(path, arrays, header)
        self._point("latest", path)
        if is_best:
            self._point("best", path)
        else:
            self._mend_best(checkpoint.facts)
        self._prune(path, checkpoint.facts)
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

    def newest(self, warn: Callable[[str], None]) -> Checkpoint | None:
        """Read the newest checkpoint that is whole, whatever `latest` says.

        Damaged newer ones are set aside as `step-00001234.damaged`, what a killed save has left
        behind is removed, and `latest` and `best` are corrected. Nobody may be saving meanwhile.

        Parameters
        ----------
        warn : callable
            Takes one message for each damaged checkpoint.

        Returns
        -------
        Checkpoint or None
            None when there has never been a checkpoint.

        Raises
        ------
        UserError
            When all checkpoints are damaged, a newer Lockstep wrote the newest one, or it can't
            be read at the moment. Nothing is changed then.
        """
        self.remove_stale()
        paths = self._by_step()
        for path in reversed(paths):
            try:
                checkpoint = read_checkpoint(path)
            except (NewerCheckpointError, UnreadableCheckpointError):
                raise
            except UserError as error:
                warn(f"{error} {_set_aside(path)} The checkpoint before it is used.")
                continue
            # The pointers serve readers; who has the newest checkpoint can do without.
            with contextlib.suppress(OSError):
                self._mend("latest", path)
                self._mend_best(checkpoint.facts)
            return checkpoint
        if paths or any(self._folder.glob("step-*.damaged")):
            raise UserError(
                f"All checkpoints in {self._folder} are damaged, so there is nothing left to go "
                "on from. Train again from the run's config.toml, in a new folder."
            )
        return None

    def newest_path(self) -> Path | None:
        """Return the file of the newest checkpoint, unread."""
        paths = self._by_step()
        return paths[-1] if paths else None

    def newest_step(self) -> int:
        """Return the step of the newest checkpoint, unread; 0 when there is none."""
        path = self.newest_path()
        return _step_of(path) if path else 0

    def _make_folder(self) -> None:
        if not self._folder.is_dir():
            self._folder.mkdir(exist_ok=True)
            sync(self._folder.parent)

    def _path_of(self, step: int) -> Path:
        return self._folder / f"step-{step:08}.safetensors"

    def _by_step(self) -> list[Path]:
        """Return the files of checkpoints, oldest first."""
        paths = self._folder.glob("step-*.safetensors")
        return sorted(filter(_is_checkpoint, paths), key=_step_of)

    def _named(self, which: str) -> str:
        pointer = self._folder / which
        try:
            _check_plain(pointer)
            with pointer.open("rb") as file:
                name = file.read(_MAX_NAME_BYTES).decode().strip()
        except OSError as error:
            raise UserError(
                f"There is no checkpoint in {self._folder}: {pointer.name} can't be read "
                f"({error.strerror}). Reference results are kept without their checkpoints; "
                "train the run again from its config.toml."
            ) from error
        except UnicodeDecodeError as error:
            raise UserError(f"{pointer} is damaged: it should name a checkpoint.") from error
        if not _is_checkpoint(Path(name)) or Path(name).name != name:
            raise UserError(f"{pointer} should name a checkpoint beside it, not {name!r}.")
        return name

    def _points_to(self, which: str) -> Path | None:
        """Return the file that a pointer names, None if it names none."""
        try:
            return self._folder / self._named(which)
        except UserError:
            return None

    def _point(self, which: str, path: Path) -> None:
        write_text(self._folder / which, path.name + "\n")

    def _mend(self, which: str, path: Path) -> None:
        if self._points_to(which) != path:
            self._point(which, path)

    def _mend_best(self, facts: Mapping[str, Any]) -> None:
        """Point `best` to what the facts call the best, if they do and it is there."""
        step = facts.get("best_step")
        if step is not None and self._path_of(step).is_file():
            self._mend("best", self._path_of(step))

    def _prune(self, written: Path, facts: Mapping[str, Any]) -> None:
        best = self._points_to("best")
        if best is None and (self._folder / "best").exists() and "best_step" not in facts:
            # Any file may be the best one. The next best one, or facts that tell, end this.
            return
        for old in self._by_step()[: -self._keep]:
            if old not in {written, best}:
                old.unlink()

    def remove_stale(self) -> None:
        """Remove what a save that was killed has left behind; nobody may be saving meanwhile."""
        for pattern in _STALE:
            for path in self._folder.glob(pattern):
                with contextlib.suppress(OSError):
                    path.unlink()


def _storable(array: Array) -> Array:
    """Return an array as its file holds it: contiguous and little-endian."""
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _is_checkpoint(path: Path) -> bool:
    return re.fullmatch(r"step-[0-9]+\.safetensors", path.name) is not None


def _step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def _set_aside(path: Path) -> str:
    """Rename a damaged file, so that it counts no more, and return what was done."""
    aside = path.with_suffix(".damaged")
    try:
        path.replace(aside)
    except OSError as error:
        return f"It can't be renamed ({error.strerror}) and is left out."
    return f"It is set aside as {aside.name}."


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file and check that every byte is as it was written.

    Raises
    ------
    NewerCheckpointError
        When it was written by a newer version.
    UnreadableCheckpointError
        When it is missing, or the system doesn't let it be read.
    UserError
        When it is foreign or damaged.
    """
    try:
        _check_plain(path)
        # safetensors tells of any failure to open a file as if there were none.
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise UnreadableCheckpointError(
            f"Can't read the checkpoint {path}: {error.strerror}. If it is there, see to its "
            "permissions and to the disk, and try again."
        ) from error
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != _FORMAT:
                raise UserError(f"{path} is no checkpoint of Lockstep.")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
        is_padded_well = _is_padded_well(path)
    except (OSError, SafetensorError, AttributeError, TypeError) as error:
        # The last two tell of element types that safetensors knows and NumPy does not.
        raise UserError(f"Can't read the checkpoint {path}: {error}.") from error
    version, facts = header.get("format_version", ""), header.get("facts", "")
    # A digest that is right for this version shows that another version's number is damage.
    is_ours = header.get("content_sha256") == _digest(arrays, f"{_FORMAT_VERSION}{facts}")
    if not is_ours and version.isdecimal() and int(version) > _FORMAT_VERSION:
        raise NewerCheckpointError(f"{path} was written by a newer Lockstep; update this one.")
    if not (is_ours and is_padded_well and version == str(_FORMAT_VERSION)):
        raise UserError(f"{path} is damaged: its content does not match its digest.")
    return Checkpoint(arrays, _read_facts(path, facts), str(path))


def _check_plain(path: Path) -> None:
    """Refuse links, which may lead anywhere, and pipes, which may never end.

    Raises
    ------
    OSError
        When there is no such file.
    UserError
        When it is another kind of file.
    """
    if not stat.S_ISREG(path.lstat().st_mode):
        raise UserError(
            f"{path} is a link or no file at all. Checkpoints lie in their folder themselves: put "
            "a copy of the file there."
        )


def _read_facts(path: Path, text: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: its facts are no JSON.") from error
    # What this module itself relies on; the rest is checked where it is used.
    steps = (facts.get("step"), facts.get("best_step", 0)) if isinstance(facts, dict) else ()
    if not steps or not all(type(step) is int and 0 <= step < _MAX_STEPS for step in steps):
        raise UserError(f"{path} is damaged: its facts don't tell its step.")
    return dict(facts)


def _is_padded_well(path: Path) -> bool:
    """Return whether nothing but spaces follows the header's JSON, as safetensors wants it.

    A reader of JSON takes tabs and line ends too, and the digest knows what the header says and
    not how it is spelled.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return file.read(length).rstrip(b" ").endswith(b"}")


def _digest(arrays: Mapping[str, Array], text: str) -> str:
    """Return the SHA-256 of a text and of contiguous arrays, with their names, types and shapes."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        # The bytes themselves and no copy, which would hold up all other threads.
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
