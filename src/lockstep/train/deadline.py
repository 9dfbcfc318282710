"""The end of the job that a training runs in, and when to stop for it."""

import time

# What ranks, launcher and job script take to end.
_MARGIN_S = 10.0


class Deadline:
    """Tells, at the beginning of each step, whether to stop after it.

    The next chance to stop is after the next step. So there must be time for both, with the
    evaluation if one of them ends its epoch, and for a save, while another save may be under way.
    The longest ones so far count.

    Parameters
    ----------
    end_s : float
        When the job is ended, in seconds since 1970.
    """

    def __init__(self, end_s: float) -> None:
        self._end_s = end_s
        self._last_s: float | None = None
        self._ended_epoch = False
        # Of steps that an evaluation does not follow, and of those that it does.
        self._longest_s = {False: 0.0, True: 0.0}
        self.has_come = False

    def is_near(self, num_steps_left: int, save_s: float, now_s: float | None = None) -> bool:
        """Return whether to stop after the step that is about to begin.

        Parameters
        ----------
        num_steps_left : int
            Of the epoch, this one included. An evaluation follows the last one.
        save_s : float
            What a checkpoint takes.
        now_s : float, optional
            Seconds since 1970.
        """
        now_s = time.time() if now_s is None else now_s
        if self._last_s is not None:
            taken_s = now_s - self._last_s
            self._longest_s[self._ended_epoch] = max(self._longest_s[self._ended_epoch], taken_s)
        self._last_s, self._ended_epoch = now_s, num_steps_left == 1
        step_s, last_step_s = self._longest_s[False], max(self._longest_s.values())
        steps_s = step_s + (last_step_s if num_steps_left <= 2 else step_s)
        needed_s = steps_s + 2 * save_s + _MARGIN_S
        self.has_come = now_s + needed_s > self._end_s
        return self.has_come
