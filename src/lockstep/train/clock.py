"""Where the time goes: seconds by phase, at the price of one clock reading per phase."""

from time import perf_counter

PHASES = ("compute", "reduce", "update", "data", "evaluation")


class Clock:
    """Attributes time to phases.

    Attributes
    ----------
    seconds : dict of str to float
        By phase, since the last `reset`.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again from zero."""
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._start = self._last = perf_counter()

    def lap(self, phase: str | None = None) -> None:
        """Attribute the time since the last lap to a phase, or to none."""
        now = perf_counter()
        if phase is not None:
            self.seconds[phase] += now - self._last
        self._last = now

    @property
    def elapsed_s(self) -> float:
        """Seconds since the last `reset`."""
        return perf_counter() - self._start
