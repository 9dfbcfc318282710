"""What is asked of a training from outside, by signals: a checkpoint, or to stop."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lockstep.parallel.early import release_signals
from lockstep.train.deadline import Deadline

# Save and go on.
SAVE_SIGNALS = (signal.SIGUSR2,)
# Save and stop. Schedulers send the first two before they kill; the last one is Ctrl-C.
STOP_SIGNALS = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)

# Signals that come so close to each other are one press of Ctrl-C.
_ONE_PRESS_S = 1.0
# What it may take to finish a step, or an evaluation, and to save.
_GRACE_S = 120


class Requests:
    """What has been asked of this rank since it was last looked at.

    The ranks tell each other in every step, so that all do the same after the same step; it is
    enough to ask one of them.

    Parameters
    ----------
    stop_after : int, optional
        Stop after this step.
    deadline : Deadline, optional
        Stop before it comes.
    tests : bool
        Whether a training that is done looks at the test split; otherwise it is left as one that
        was stopped.
    """

    def __init__(
        self,
        stop_after: int | None = None,
        deadline: Deadline | None = None,
        *,
        tests: bool = True,
    ) -> None:
        self.save = False
        self.stop = False
        self.stop_after = stop_after
        self.deadline = deadline
        self.tests = tests

    def take_save(self) -> bool:
        """Return whether a checkpoint was asked for, and forget it."""
        asked, self.save = self.save, False
        return asked

    def wants_stop(self, step: int, num_steps_left: int, save_s: float) -> bool:
        """Return whether to stop after the step that is about to begin.

        Parameters
        ----------
        step : int
            Its number, counted from 1.
        num_steps_left, save_s
            See `Deadline.is_near`.
        """
        is_near = self.deadline is not None and self.deadline.is_near(num_steps_left, save_s)
        return self.stop or step == self.stop_after or is_near


@contextmanager
def listen(requests: Requests) -> Iterator[None]:
    """Take signals as requests. The handlers only take note; a second Ctrl-C ends at once.

    A rank that was told to stop and does not come to it, because it waits for one that hangs, is
    ended by the system's alarm, which needs no Python to run.

    Schedulers and launchers may well send the same signal twice, so a Ctrl-C only counts as the
    second one when it doesn't come right after the first, and other signals never do.

    Outside of the main thread, where Python has no signal handlers, nothing is listened to.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    first_press_s = math.inf

    def take_note(number: int, frame: FrameType | None) -> None:
        nonlocal first_press_s
        if number in SAVE_SIGNALS:
            requests.save = True
            return
        if not requests.stop:
            signal.alarm(_GRACE_S)
        requests.stop = True
        if number == signal.SIGINT:
            now_s = time.monotonic()
            if now_s - first_press_s > _ONE_PRESS_S:
                signal.default_int_handler(number, frame)
            first_press_s = min(first_press_s, now_s)

    before = {number: signal.getsignal(number) for number in (*SAVE_SIGNALS, *STOP_SIGNALS)}
    for number in before:
        signal.signal(number, take_note)
    release_signals()
    try:
        yield
    finally:
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)
