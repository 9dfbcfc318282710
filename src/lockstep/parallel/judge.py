"""The judge of the ranks: from their heartbeats, who is missing, stuck or gone.

No sockets and no clocks in here, so that every case can be tested with made-up times.
"""

from collections.abc import Iterable
from dataclasses import dataclass

# A step may take so many times as long as the slowest one so far.
_SLOW_STEP_FACTOR = 3
# A rank that uses less than this part of a core, and moves no data, is not at work.
_IDLE_SHARE = 0.02
_BUSY_S = 1.0
# Here a disk or a reader of the output may be slow, which costs no processor time.
_PATIENT_PHASES = {"saving", "testing", "finishing the epoch"}
_PATIENCE = 10
# Ranks that were lost together were not heard of last at the same time: who has been silent for
# this part of the limit may be one of them.
_DOUBTFUL_SHARE = 2 / 3
# How long the others of a rank that has left may wait for it in vain.
_LEFT_S = 3.0


@dataclass(frozen=True)
class Beat:
    """What a rank tells of itself.

    Parameters
    ----------
    step : int
        Steps done.
    phase : str
        What it does now; empty outside of a training.
    is_step : bool
        Whether that is part of a training step.
    is_waiting : bool
        Whether it waits for other ranks.
    cpu_s : float
        Processor time of its process, its watchdog's left out.
    moved_bytes : int
        What the process has read and written.
    group : int
        Which ranks it works with, where groups of them work side by side.
    """

    step: int
    phase: str
    is_step: bool
    is_waiting: bool
    cpu_s: float
    moved_bytes: int
    group: int = 0


class Pulse:
    """One rank, as the judge has heard of it.

    Parameters
    ----------
    name : str
        Rank and host, for people.
    now_s : float
        When the judge begins to listen.
    """

    def __init__(self, name: str, now_s: float) -> None:
        self.name = name
        self.beat = Beat(0, "start-up", is_step=False, is_waiting=False, cpu_s=0, moved_bytes=0)
        self.heard_s = now_s
        self.progress_s = now_s
        self.step_s = now_s
        self.slowest_step_s = 0.0
        self._busy_since_s, self._busy_cpu_s = now_s, 0.0
        self.left_s: float | None = None

    def take(self, beat: Beat, now_s: float) -> None:
        """Take note of a heartbeat, and of the progress that it shows."""
        before = self.beat
        has_moved_data = beat.moved_bytes != before.moved_bytes
        is_at_work = (self._is_busy(beat, now_s) or has_moved_data) and not beat.is_waiting
        has_moved_on = (beat.step, beat.phase) != (before.step, before.phase)
        # Once it is known how long a step takes, that tells more than being busy.
        if has_moved_on or (is_at_work and not (beat.is_step and self.slowest_step_s)):
            self.progress_s = now_s
        if beat.step > before.step:
            began_s = self.step_s if before.is_step else self.heard_s
            self.slowest_step_s = max(self.slowest_step_s, now_s - began_s)
        if (beat.step, beat.is_step) != (before.step, before.is_step):
            self.step_s = now_s
        self.beat, self.heard_s = beat, now_s

    def _is_busy(self, beat: Beat, now_s: float) -> bool:
        """Return whether the process uses processor time, as seen once a second or so."""
        elapsed_s = now_s - self._busy_since_s
        if elapsed_s < _BUSY_S:
            # Heartbeats may come in bunches.
            return False
        used_s = beat.cpu_s - self._busy_cpu_s
        self._busy_since_s, self._busy_cpu_s = now_s, beat.cpu_s
        return used_s > _IDLE_SHARE * elapsed_s

    def shift(self, pause_s: float) -> None:
        """Leave out a time in which the judge itself did not run."""
        self.heard_s += pause_s
        self.progress_s += pause_s
        self.step_s += pause_s
        if self.left_s is not None:
            self.left_s += pause_s

    @property
    def place(self) -> str:
        """Where it was when it was heard of last."""
        beat = self.beat
        if beat.is_step:
            return f"in step {beat.step + 1}, phase {beat.phase}"
        if not beat.phase:
            return f"after step {beat.step}" if beat.step else "at its start"
        return f"in phase {beat.phase}" + (f" after step {beat.step}" if beat.step else "")


class Judge:
    """Tells whether the ranks go on.

    Parameters
    ----------
    names : iterable of str
        Rank and host of each.
    now_s : float
        The time.

    Attributes
    ----------
    timeout_s : float
        How long silence and standstill are put up with, while no step takes longer; 0: for ever.
    pulses : list of Pulse
        By rank.
    """

    def __init__(self, names: Iterable[str], now_s: float) -> None:
        self.timeout_s = 0.0
        self.pulses = [Pulse(name, now_s) for name in names]
        self._ignored: set[int] = set()

    @property
    def limit_s(self) -> float:
        """The timeout, raised above the slowest step seen."""
        slowest_s = max(pulse.slowest_step_s for pulse in self.pulses)
        return max(self.timeout_s, _SLOW_STEP_FACTOR * slowest_s)

    def take(self, rank: int, beat: Beat, now_s: float) -> None:
        """Take note of a rank's heartbeat."""
        self.pulses[rank].take(beat, now_s)

    def leave(self, rank: int, now_s: float) -> None:
        """Take note that a rank has ended as it should."""
        if self.pulses[rank].left_s is None:
            self.pulses[rank].left_s = now_s

    def ignore(self, rank: int) -> None:
        """Judge a rank no more."""
        self._ignored.add(rank)

    def shift(self, pause_s: float) -> None:
        """Leave out a time in which the judge itself did not run."""
        for pulse in self.pulses:
            pulse.shift(pause_s)

    def has_died(self, rank: int, *, is_fresh: bool = True) -> str:
        """Return what is to be told of a rank whose connection was cut without a farewell.

        Parameters
        ----------
        rank : int
            Which one.
        is_fresh : bool
            Whether any rank has been heard of since then.
        """
        pulse = self.pulses[rank]
        place = self._last_place(pulse) + ("" if is_fresh else " or soon after")
        return f"{pulse.name} has died {place}: it was killed, or has crashed or run out of memory."

    def missing(self, now_s: float) -> str | None:
        """Return which rank has ended or fallen silent, None if none has."""
        return self._left(now_s) or self._silent(now_s)

    def stuck(self, now_s: float) -> str | None:
        """Return which rank holds up all others of its group, None if none does."""
        if self._unheard(now_s, self.limit_s):
            # That is told as soon as it is known who else is silent.
            return None
        groups: dict[int, list[Pulse]] = {}
        for pulse in self._there:
            groups.setdefault(pulse.beat.group, []).append(pulse)
        verdicts = (self._stuck(there, now_s) for there in groups.values())
        return next((verdict for verdict in verdicts if verdict), None)

    def _stuck(self, there: list[Pulse], now_s: float) -> str | None:
        limit_s = self.limit_s
        if any(pulse.beat.phase in _PATIENT_PHASES for pulse in there):
            limit_s *= _PATIENCE
        # Whoever doesn't train may do what he likes.
        if not (self.timeout_s and all(pulse.beat.phase for pulse in there)):
            return None
        if now_s - max(pulse.progress_s for pulse in there) <= limit_s:
            return None
        awaited = [pulse for pulse in there if not pulse.beat.is_waiting]
        if not awaited or len(awaited) == len(there):
            return f"No rank has made progress for {limit_s:.0f} s, {there[0].place}."
        return (
            f"{_names_have(awaited)} made no progress for {limit_s:.0f} s, {awaited[0].place}, "
            f"and the others wait for {'it' if len(awaited) == 1 else 'them'}."
        )

    def _last_place(self, lost: Pulse) -> str:
        """Return where a rank was lost, by what the others know too: none gets a step ahead."""
        group = [pulse for pulse in self.pulses if pulse.beat.group == lost.beat.group]
        num_steps = max(pulse.beat.step for pulse in group)
        return lost.place if lost.beat.step == num_steps else f"in step {num_steps + 1}"

    @property
    def _judged(self) -> list[Pulse]:
        return [pulse for rank, pulse in enumerate(self.pulses) if rank not in self._ignored]

    @property
    def _there(self) -> list[Pulse]:
        return [pulse for pulse in self._judged if pulse.left_s is None]

    def _left(self, now_s: float) -> str | None:
        there = self._there
        gone = [pulse for pulse in self._judged if pulse.left_s is not None]
        if not (gone and there) or not all(pulse.beat.is_waiting for pulse in there):
            return None
        stood_still_s = now_s - max(pulse.progress_s for pulse in there)
        left_s = now_s - max(pulse.left_s or 0.0 for pulse in gone)
        if min(stood_still_s, left_s) < _LEFT_S:
            return None
        them = "it" if len(gone) == 1 else "them"
        return f"{_names_have(gone)} ended, while the others wait for {them} {there[0].place}."

    def _unheard(self, now_s: float, limit_s: float) -> list[Pulse]:
        """Return which ranks have been silent for longer than a limit."""
        if not self.timeout_s:
            return []
        return [pulse for pulse in self._there if now_s - pulse.heard_s > limit_s]

    def _silent(self, now_s: float) -> str | None:
        limit_s = self.limit_s
        silent = self._unheard(now_s, limit_s)
        if not silent or len(silent) < len(self._unheard(now_s, _DOUBTFUL_SHARE * limit_s)):
            return None
        where = f"lost {self._last_place(silent[0])}"
        why = "it is stopped or out of reach, or its host is lost"
        if len(silent) > 1:
            why = "they are stopped or out of reach, or their hosts are lost"
        return f"{_names_have(silent)} not been heard of for {limit_s:.0f} s, {where}: {why}."


def _names_have(pulses: list[Pulse]) -> str:
    """Name some ranks, but no more than can be read, and begin to tell what they have done."""
    names = [pulse.name for pulse in pulses]
    shown = ", ".join(names[:8])
    if len(names) > 8:
        shown += f" and {len(names) - 8} more"
    return f"{shown} {'has' if len(names) == 1 else 'have'}"
