"""Files that appear under their name complete or not at all."""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path that becomes `path` when the block ends well.

    The file appears under its name complete or not at all: it is written beside its
    destination, synced to disk, renamed, and the folder is synced. When anything fails before
    the renaming, the temporary file is removed and what stood under the name still stands there.

    Parameters
    ----------
    path : Path
        The destination. Its folder must exist.

    Yields
    ------
    Path
        An empty file in the same folder, to be written and closed within the block. It may be
        replaced there by another file of that name.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        mode = _create(temporary)
        yield temporary
        # A library that replaces the file may leave it readable to its owner alone.
        temporary.chmod(mode)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except BaseException:
        # What went wrong first is what the caller has to know.
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def sync(path: Path) -> None:
    """Return when a file's content, or a folder's list of names, is on disk.

    The file may have been written through another descriptor, which is closed by now.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _create(path: Path) -> int:
    """Make an empty file and return its permissions: those of any new file in that folder."""
    # The system applies the umask. Reading it would mean to set it for all threads.
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
