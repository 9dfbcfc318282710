"""Checkpoints that are written while the training goes on."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from lockstep.files import sync
from lockstep.storage.checkpoint import Checkpoint, CheckpointStore


class CheckpointWriter:
    """Writes checkpoints in a background thread, one at a time and in their order.

    When the disk is slower than the training, checkpoints are left out instead of piling up: a
    new one takes the place of those that still wait, save that the newest waiting best one stays
    until it is written, or until a better one comes. So at most two wait while one is written.

    The thread lives only while there is something to write. It is no daemon: the process ends
    by itself, also after an error and without `close`, and what was submitted is written before.
    A daemon would be cut off in the middle of a save.

    Parameters
    ----------
    store : CheckpointStore
        Where they are written. Nobody else saves to it meanwhile.
    companions : sequence of Path
        Files that tell of the same steps. What was written to them before a checkpoint was
        submitted is synced to the disk before it is.

    Attributes
    ----------
    longest_s : float
        What the slowest save so far has taken.
    """

    def __init__(self, store: CheckpointStore, companions: Sequence[Path] = ()) -> None:
        self._store = store
        self._companions = companions
        # Guards what follows; notified when the thread ends.
        self._idle = threading.Condition()
        self._waiting: list[tuple[Checkpoint, bool]] = []
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._has_failed = False
        self._is_closed = False
        self.longest_s = 0.0

    def submit(self, checkpoint: Checkpoint, *, is_best: bool) -> None:
        """Take a checkpoint to be written, and return at once.

        Parameters
        ----------
        checkpoint : Checkpoint
            Its arrays belong to the writer from now on; the caller has copied them.
        is_best : bool
            Whether it has the best validation score so far.

        Raises
        ------
        Exception
            What an earlier save failed with. It is raised once; nothing is written after it.
        """
        with self._idle:
            if self._is_closed:
                raise RuntimeError("The writer of checkpoints is closed.")
            self._raise_once()
            if self._has_failed:
                return
            still_wanted = [] if is_best else [item for item in self._waiting if item[1]]
            self._waiting = [*still_wanted, (checkpoint, is_best)]
            if self._thread is None:
                thread = threading.Thread(target=self._write_all, name="checkpoint-writer")
                thread.start()
                self._thread = thread

    def check(self) -> None:
        """See whether all is well so far.

        Raises
        ------
        Exception
            What a save failed with, unless it was raised already.
        """
        with self._idle:
            self._raise_once()

    def flush(self) -> None:
        """Wait until everything submitted is on disk.

        Raises
        ------
        Exception
            What a save failed with, unless it was raised already.
        """
        with self._idle:
            self._idle.wait_for(lambda: self._thread is None)
            self._raise_once()

    def close(self) -> None:
        """Wait until everything submitted is on disk, and take no more.

        Raises
        ------
        Exception
            What a save failed with, unless it was raised already.
        """
        with self._idle:
            self._is_closed = True
        self.flush()

    def _raise_once(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write_all(self) -> None:
        while (item := self._next()) is not None:
            checkpoint, is_best = item
            start_s = time.perf_counter()
            try:
                for path in filter(Path.exists, self._companions):
                    sync(path)
                self._store.save(checkpoint, is_best=is_best)
                self.longest_s = max(self.longest_s, time.perf_counter() - start_s)
            except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
                self._fail(error)

    def _next(self) -> tuple[Checkpoint, bool] | None:
        """Return the next checkpoint; when there is none, the thread counts as ended."""
        with self._idle:
            if self._waiting:
                return self._waiting.pop(0)
            self._thread = None
            self._idle.notify_all()
            return None

    def _fail(self, error: BaseException) -> None:
        with self._idle:
            self._error = error
            self._has_failed = True
            self._waiting.clear()
