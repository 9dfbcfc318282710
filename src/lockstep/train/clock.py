"""Where the time goes: seconds by phase, at the price of one clock reading per phase."""

from collections.abc import Mapping
from time import perf_counter

PHASES = ("compute", "reduce", "update", "data", "evaluation")
_TOTAL = "total"


class Clock:
    """Attributes time to phases.

    Attributes
    ----------
    seconds : dict of str to float
        By phase, since the last `reset`.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self, spent: Mapping[str, float] | None = None) -> None:
        """Start again, from zero or from what `spent` was in an earlier session."""
        spent = spent or {}
        self.seconds = {phase: spent.get(phase, 0.0) for phase in PHASES}
        self._last = perf_counter()
        self._start = self._last - spent.get(_TOTAL, 0.0)

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

    @property
    def spent(self) -> dict[str, float]:
        """Seconds by phase and in all, for `reset` to go on from."""
        return {**self.seconds, _TOTAL: self.elapsed_s}
