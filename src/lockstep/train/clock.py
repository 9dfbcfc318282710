"""Where the time goes: seconds by phase, at the price of one clock reading per phase."""

from collections.abc import Mapping
from time import perf_counter

STEP_PHASES = ("compute", "reduce", "update", "data")
PHASES = (*STEP_PHASES, "evaluation")
_TOTAL = "total"


class Clock:
    """Attributes time to phases.

    Attributes
    ----------
    seconds : dict of str to float
        By phase, since the last `reset`; without the phase that is under way.
    phase : str
        What is under way, for people. Only those in `PHASES` count for the seconds.
    since_s : float
        When it began, by `perf_counter`. Another thread may read both.
    """

    def __init__(self) -> None:
        self.phase = "starting"
        self.reset()

    def reset(self, spent: Mapping[str, float] | None = None) -> None:
        """Start again, from zero or from what `spent` was in an earlier session."""
        spent = spent or {}
        self.seconds = {phase: spent.get(phase, 0.0) for phase in PHASES}
        self.since_s = perf_counter()
        self._start_s = self.since_s - spent.get(_TOTAL, 0.0)

    def enter(self, phase: str) -> None:
        """Begin a phase; the time since the last one began goes to that one."""
        now_s = perf_counter()
        if self.phase in self.seconds:
            self.seconds[self.phase] += now_s - self.since_s
        self.phase = phase
        self.since_s = now_s

    @property
    def elapsed_s(self) -> float:
        """Seconds since the last `reset`."""
        return perf_counter() - self._start_s

    @property
    def spent(self) -> dict[str, float]:
        """Seconds by phase and in all, for `reset` to go on from."""
        return {**self.seconds, _TOTAL: self.elapsed_s}
