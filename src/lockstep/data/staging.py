"""Staging: a copy of the data set in a host's own storage, checked, and kept for later jobs.

It lies in `lockstep-<user id>/`, a folder that nobody else may look into. Its name tells the
digests of the samples and of all the rest, so data sets that differ in anything don't meet.
"""

import fcntl
import hashlib
import json
import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from string import Template

import numpy as np

from lockstep.data.dataset_file import DatasetFile, DatasetInfo
from lockstep.errors import UserError
from lockstep.files import atomic_path

_OWNER_ONLY = 0o700
_OTHERS = 0o077


def stage(dataset: DatasetFile, folder: str, warn: Callable[[str], None]) -> Path:
    """Return the copy of a data set in this host's storage, made unless a good one is there.

    One process of a host does this for all of them. Jobs that stage at the same time do it one
    after another, so that the second finds the copy of the first.

    Parameters
    ----------
    dataset : DatasetFile
        The original, open.
    folder : str
        A folder of the host, which may be written with environment variables of this process:
        `$TMPDIR`.
    warn : callable
        Gets a message when a copy is there, but damaged; it is replaced.

    Returns
    -------
    Path
        The copy. Its content has been compared with its digest.

    Raises
    ------
    UserError
        When the folder won't do, has too little room, can't be written to, or when the copy is
        not what was recorded in the data set. No part of a copy is left behind.
    """
    own_folder = _own_folder(_expanded(folder))
    copy = own_folder / copy_name(dataset.info)
    try:
        with _alone_in(own_folder):
            if not _is_there(copy, warn):
                _make(copy, dataset.path)
    except OSError as error:
        raise UserError(
            f"Can't stage {dataset.path} to {own_folder} on {socket.gethostname()}: "
            f"{error.strerror}. Name another folder with --stage."
        ) from error
    return copy


def copy_name(info: DatasetInfo) -> str:
    """Return the name of a data set's copies: that of no other data set.

    The content's digest doesn't cover the attributes, such as the scaling, which matter as much.
    """
    attributes = json.dumps(vars(info), default=_plain, sort_keys=True)
    return f"{info.content_sha256}-{hashlib.sha256(attributes.encode()).hexdigest()[:16]}.h5"


def _plain(value: object) -> object:
    """Return what JSON can't write in a form that it can."""
    return value.tolist() if isinstance(value, np.ndarray) else str(value)


def _expanded(folder: str) -> Path:
    host = socket.gethostname()
    # An empty variable would lead to a folder that nobody meant.
    variables = {name: value for name, value in os.environ.items() if value}
    try:
        path = Path(Template(folder).substitute(variables))
    except KeyError as error:
        raise UserError(
            f"stage = {folder!r}: the environment variable {error.args[0]} is not set on {host}. "
            "Set it for all ranks, or name another folder with --stage."
        ) from error
    except ValueError as error:
        raise UserError(
            f"stage = {folder!r}: after $ comes the name of an environment variable; for the "
            "character itself, write $$."
        ) from error
    if not path.is_dir():
        raise UserError(
            f"stage = {folder!r}: {path} is no folder on {host}. Make it there, or name another "
            "with --stage."
        )
    return path


def _own_folder(parent: Path) -> Path:
    """Make this user's folder, or see that it is this user's alone."""
    own, host = parent / f"lockstep-{os.geteuid()}", socket.gethostname()
    try:
        with suppress(FileExistsError):
            own.mkdir(_OWNER_ONLY)
        # Not what a link leads to.
        found = own.lstat()
    except OSError as error:
        raise UserError(
            f"Can't make the folder {own} on {host}: {error.strerror}. Name another with --stage."
        ) from error
    is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    if not is_own or found.st_mode & _OTHERS:
        raise UserError(
            f"{own} on {host} is not a folder of yours alone (mode 0700), so others could change "
            "the data in it. Remove it, or name another folder with --stage."
        )
    return own


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Wait until no other job stages to the folder; a process's end makes way, too."""
    with (folder / ".lock").open("a", encoding="utf-8") as file:
        # Where a file system has no locks, two jobs may make the same copy; either is good.
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
            # Whoever has begun these was killed.
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink(missing_ok=True)
        yield


def _is_there(copy: Path, warn: Callable[[str], None]) -> bool:
    """Return whether there is a good copy; a bad one is removed."""
    if not copy.exists():
        return False
    try:
        _check(copy, copy.name)
    except UserError:
        warn(f"The copy {copy} on {socket.gethostname()} is damaged, and is made again.")
        copy.unlink()
        return False
    return True


def _make(copy: Path, original: Path) -> None:
    _check_room(copy.parent, original)
    with atomic_path(copy) as temporary:
        shutil.copyfile(original, temporary)
        try:
            _check(temporary, copy.name)
        except UserError as error:
            raise UserError(
                f"The copy of {original} on {socket.gethostname()} is not what was recorded when "
                "the data set was written. Is the original damaged, or has it changed meanwhile? "
                f"({error})"
            ) from error


def _check(copy: Path, name: str) -> None:
    """See that a copy is whole, and of the data set that the name belongs to."""
    with DatasetFile.open(copy) as dataset:
        dataset.verify()
        if copy_name(dataset.info) != name:
            raise UserError(f"{copy} holds another data set.")


def _check_room(folder: Path, original: Path) -> None:
    needed_bytes, free_bytes = original.stat().st_size, shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise UserError(
            f"Too little room in {folder} on {socket.gethostname()}: {original} has "
            f"{needed_bytes / 1e6:,.1f} MB, and {free_bytes / 1e6:,.1f} MB are free. Make room, "
            "name another folder with --stage, or leave --stage out: the data are read where they "
            "are."
        )
