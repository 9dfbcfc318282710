"""What is asked of a training from outside, by signals: a checkpoint, or to stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Save and go on.
SAVE_SIGNALS = (signal.SIGUSR2,)
# Save and stop. Schedulers send the first two before they kill; the last one is Ctrl-C.
STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)


class Requests:
    """What has been asked of this rank since it was last looked at.

    The ranks tell each other in every step, so that all do the same after the same step; it is
    enough to ask one of them.

    Parameters
    ----------
    stop_after : int, optional
        Stop after this step.
    """

    def __init__(self, stop_after: int | None = None) -> None:
        self.save = False
        self.stop = False
        self.stop_after = stop_after

    def take_save(self) -> bool:
        """Return whether a checkpoint was asked for, and forget it."""
        asked, self.save = self.save, False
        return asked


@contextmanager
def listen(requests: Requests) -> Iterator[None]:
    """Take signals as requests. The handlers only take note; a second signal to stop ends at once.

    Outside of the main thread, where Python has no signal handlers, nothing is listened to.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def take_note(number: int, _frame: FrameType | None) -> None:
        if number in SAVE_SIGNALS:
            requests.save = True
            return
        requests.stop = True
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in (*SAVE_SIGNALS, *STOP_SIGNALS)}
    for number in before:
        signal.signal(number, take_note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
