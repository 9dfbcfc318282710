"""The watchdog: a thread that notices when a rank has died or hangs, and ends the job.

The root's watchdog hears of all ranks and judges them; the others only listen to the root. All
of them go on while MPI blocks the ranks themselves.
"""

import atexit
import hashlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import click
import numpy as np

from lockstep.errors import RANK_LOST
from lockstep.parallel.communicator import Communicator, Doing
from lockstep.parallel.failure import PASS_ON_S
from lockstep.parallel.heartbeat import (
    TOKEN_BYTES,
    Connection,
    Switchboard,
    call,
    own_addresses,
)
from lockstep.parallel.judge import Beat, Judge
from lockstep.parallel.launch import launched_as

DEFAULT_TIMEOUT_S = 60.0
# Where a supervisor listens.
SUPERVISOR = "LOCKSTEP_SUPERVISOR"
# Those of this process.
_watches: "list[Watch]" = []
_BEAT_S = 0.5
# The least number of heartbeats in the time that silence is put up with.
_BEATS_PER_TIMEOUT = 5
# A launcher that can't end this rank is not waited for any longer.
_ABORT_S = 10
# Ranks of another host than the root's leave it to those of the first ones to tell the news.
_NEXT_HOST_S = 1.0


@dataclass(frozen=True)
class Crew:
    """Who is watched.

    Parameters
    ----------
    rank : int
        This process.
    names : list of str
        By rank: its number as the launcher has counted, and its host, for people.
    hosts : list of str
        By rank.
    token : str
        Known to this job alone.
    can_lose_ranks : bool
        Whether the others can go on without a rank that has died.
    """

    rank: int
    names: list[str]
    hosts: list[str]
    token: str
    can_lose_ranks: bool

    @property
    def place_of_host(self) -> int:
        """Which of the hosts this one is."""
        return list(dict.fromkeys(self.hosts)).index(self.hosts[self.rank])


def idle() -> Doing:
    """Return what a rank does that doesn't train: nothing that it could hang in."""
    return Doing(0, "")


Line = TypeVar("Line", Switchboard, Connection)


class Watch:
    """One rank's watchdog.

    Parameters
    ----------
    crew : Crew
        Who is watched.
    line : Switchboard or Connection or None
        To all the others, or to the root; without one, nothing is watched.
    abort : callable
        Ends all ranks with an exit code.
    supervisor : Connection, optional
        To a supervisor, who tells of dead ranks when a launcher leaves none to do so.

    Attributes
    ----------
    look : callable
        Returns what this rank is doing; may be set at any time.
    is_waiting : bool
        Whether the rank waits for others, in whatever phase.
    group : int
        Which ranks it works with, where groups of them work side by side.
    remedy : str
        What to do when a rank is lost.
    """

    def __init__(
        self,
        crew: Crew,
        line: Switchboard | Connection | None,
        abort: Callable[[int], None],
        supervisor: Connection | None = None,
    ) -> None:
        self.look: Callable[[], Doing] = idle
        self.is_waiting = False
        self.group = 0
        self.remedy = ""
        self._crew = crew
        self._line = line
        self._abort = abort
        self._supervisor = supervisor
        self._judge = Judge(crew.names, time.monotonic())
        self.set_timeout(DEFAULT_TIMEOUT_S)
        self._is_closed = threading.Event()
        self._left_out: set[int] = set()
        self._moved_bytes = _MovedBytes()
        self._parent = os.getppid()
        self._tellers: list[socket.socket] = []
        _watches.append(self)
        if isinstance(line, Switchboard):
            self._start(self._watch_all, line)
        elif line is not None:
            self._start(self._watch_root, line)

    def hand_over(self) -> Connection | None:
        """Return the connection with the supervisor, which another watch takes over."""
        supervisor, self._supervisor = self._supervisor, None
        return supervisor

    def set_timeout(self, timeout_s: float) -> None:
        """Put up with silence and standstill for so long; 0: for ever."""
        self._judge.timeout_s = timeout_s
        self._beat_s = min(_BEAT_S, timeout_s / _BEATS_PER_TIMEOUT) if timeout_s else _BEAT_S

    def leave_out(self, ranks: Sequence[int]) -> None:
        """Watch some ranks no more, because they have no connection."""
        self._left_out.update(ranks)
        for rank in ranks:
            self._judge.ignore(rank)
        if ranks and self._crew.rank == 0:
            names = ", ".join(self._crew.names[rank] for rank in ranks)
            click.echo(
                f"Warning: no TCP connection to the root can be made from {names}. If it hangs, "
                "nobody will notice.",
                err=True,
            )

    def close(self) -> None:
        """Say farewell, and watch no more."""
        if self._is_closed.is_set():
            return
        for line in (self._line, self._supervisor):
            if line is not None:
                line.farewell()
        # Only now, for the watchdog's thread closes the lines as soon as it sees this.
        self._is_closed.set()

    def announce_abort(self, exit_code: int) -> None:
        """Tell the supervisor that this rank ends all others, and has told why."""
        if self._supervisor is not None:
            self._supervisor.announce_abort(exit_code)

    def _own_beat(self) -> Beat:
        doing = self.look()
        return Beat(
            doing.step,
            doing.phase,
            doing.is_step,
            self.is_waiting or doing.is_waiting,
            # Without that of this thread, which is the watchdog's: listening is no progress.
            time.process_time() - time.thread_time(),
            self._moved_bytes(),
            self.group,
        )

    def _start(self, run: Callable[[Line], None], line: Line) -> None:
        def watch() -> None:
            try:
                run(line)
            finally:
                line.close()

        threading.Thread(target=watch, name="watchdog", daemon=True).start()

    def _watch_root(self, line: Connection) -> None:
        """Tell the root what this rank does, and listen whether the root is there."""
        judge = self._judge
        for rank in range(1, len(judge.pulses)):
            # Of them only the root knows.
            if rank != self._crew.rank:
                judge.ignore(rank)
        for now_s in self._moments():
            own = self._own_beat()
            judge.take(self._crew.rank, own, now_s)
            self._send(line, own)
            beats = line.receive_for(self._beat_s)
            if line.has_left:
                judge.leave(0, now_s)
                # What is to come from it now is nothing but the end of the connection.
                time.sleep(self._beat_s)
            elif beats is None:
                self._tell_of_death(0)
                self._wait_for_recovery()
                return
            elif beats:
                judge.take(0, beats[-1], now_s)
            self._end_if(judge.missing(now_s))

    def _watch_all(self, line: Switchboard) -> None:
        """Hear what all ranks do, and judge them."""
        judge = self._judge
        next_beat_s = 0.0
        for now_s in self._moments():
            if now_s >= next_beat_s:
                own = self._own_beat()
                judge.take(0, own, now_s)
                self._send(line, own)
                next_beat_s = now_s + self._beat_s
                self._end_if(judge.missing(now_s) or judge.stuck(now_s))
            for rank, beats in line.events(self._beat_s):
                for beat in beats or ():
                    judge.take(rank, beat, now_s)
                if line.connections[rank].has_left:
                    judge.leave(rank, now_s)
                elif beats is None:
                    self._tell_of_death(rank)

    def _wait_for_recovery(self) -> None:
        """Wait for another watch to take over, now that the root, which judged all, is lost."""
        limit_s = self._judge.limit_s if self._judge.timeout_s else None
        if not self._is_closed.wait(limit_s):
            self._end_if(f"The ranks that are left have not come together for {limit_s:.0f} s.")

    def _is_supervisor_lost(self) -> bool:
        """Return whether the supervisor has died, and take the signals that it passes on."""
        if self._supervisor is None:
            return False
        is_lost = self._supervisor.receive_for(0) is None
        signals = self._supervisor.signals
        while signals and _is_awaited(signals[0]):
            os.kill(os.getpid(), signals.pop(0))
        return is_lost

    def _send(self, line: Switchboard | Connection, beat: Beat) -> None:
        line.send(beat)
        if self._supervisor is not None:
            self._supervisor.send(beat)

    def _moments(self) -> Iterator[float]:
        """Yield the time again and again until the watch is closed."""
        before_s = time.monotonic()
        while not self._is_closed.is_set():
            now_s = time.monotonic()
            pause_s = now_s - before_s - 2 * self._beat_s
            if pause_s > self._beat_s:
                # This process was stopped, and the others may have been so too.
                self._judge.shift(pause_s)
            before_s = now_s
            if os.getppid() != self._parent or self._is_supervisor_lost():
                self._end_if("The process that has started the ranks has died.")
            yield now_s

    def _tell_of_death(self, rank: int) -> None:
        """End the job, unless the others can go on without the rank."""
        if self._is_closed.is_set() or rank in self._left_out:
            return
        # What this rank does now tells more than its last heartbeat.
        own = self._own_beat()
        self._judge.take(self._crew.rank, own, time.monotonic())
        if self._supervisor is not None:
            self._supervisor.send(own)
        text = self._judge.has_died(rank)
        self._judge.ignore(rank)
        if not self._crew.can_lose_ranks:
            self._end_if(text, is_told=self._supervisor is not None)
        elif self.is_first_to_tell(f"death of {self._crew.names[rank]}"):
            click.echo(f"Warning: {text} The others go on without it.", err=True)

    def _end_if(self, text: str | None, *, is_told: bool = False) -> None:
        """End all ranks, if there is a reason."""
        if text is None or self._is_closed.is_set():
            return
        signal.alarm(_ABORT_S)
        if self._crew.rank:
            time.sleep(_NEXT_HOST_S * self._crew.place_of_host)
        if not is_told and self.is_first_to_tell("end"):
            click.echo(f"Error: {text} {self.remedy}".rstrip(), err=True)
        time.sleep(PASS_ON_S)
        self._abort(RANK_LOST)

    def is_first_to_tell(self, news: str) -> bool:
        """Return whether no other rank of this host has told it before."""
        if sys.platform != "linux":
            # Where there are no such names, all may tell it.
            return True
        # The name is taken as long as one of the processes lives, and leaves nothing behind. All
        # users of the host can see it, so it doesn't show the token.
        name = hashlib.sha256(f"{self._crew.token} {news}".encode()).hexdigest()
        teller = socket.socket(socket.AF_UNIX)
        try:
            teller.bind(f"\0lockstep-{name}")
        except OSError:
            teller.close()
            return False
        self._tellers.append(teller)
        return True


def _call_supervisor(communicator: Communicator) -> Connection | None:
    """Connect with the supervisor that has started the ranks, if one has; collective."""
    # A launcher may keep the variable from ranks on other hosts.
    told = "".join(communicator.gather_texts(os.environ.get(SUPERVISOR, ""))[:1])
    if not told:
        return None
    token, port, addresses = json.loads(told)
    return call(addresses, port, bytes.fromhex(token), launched_as()[0])


def _is_awaited(number: int) -> bool:
    """Return whether this process makes anything of a signal, or is to be ended by it.

    Before it does, SIGUSR1 would be taken by MPICH, which has a handler of its own, and SIGUSR2
    would end the rank, though it only asks for a checkpoint.
    """
    is_asking = number in {signal.SIGUSR1, signal.SIGUSR2}
    return not is_asking or signal.getsignal(number) is not signal.SIG_DFL


def is_first_to_tell(news: str) -> bool:
    """Return whether no other rank of this host has told it before, as far as that is known."""
    return all(watch.is_first_to_tell(news) for watch in _watches)


def close_all() -> None:
    """Say farewell to all ranks, before this process ends them or goes on without one."""
    for watch in _watches:
        watch.close()
    _watches.clear()


def announce_abort(exit_code: int) -> None:
    """Tell whoever listens that this process ends all ranks, and has told why."""
    for watch in _watches:
        watch.announce_abort(exit_code)


class _MovedBytes:
    """Counts what this process has read and written; 0 where the system doesn't say."""

    def __init__(self) -> None:
        self._own = 0

    def __call__(self) -> int:
        try:
            told = Path("/proc/self/io").read_text(encoding="ascii")
        except OSError:
            return 0
        moved = sum(int(line.partition(":")[2]) for line in told.splitlines()[:2]) - self._own
        # Reading this counts as well, from the next time on.
        self._own += len(told)
        return moved


def begin(
    communicator: Communicator,
    abort: Callable[[int], None],
    supervisor: Connection | None = None,
    *,
    can_lose_ranks: bool,
) -> Watch:
    """Connect the ranks with the root, and watch them; collective.

    Parameters
    ----------
    communicator : Communicator
        The ranks.
    abort : callable
        Ends all of them with an exit code.
    supervisor : Connection, optional
        To the supervisor, if there is a connection already.
    can_lose_ranks : bool
        Whether the others can go on without a rank that has died.
    """
    # Before the root can be called, for this may take a while.
    supervisor = supervisor or _call_supervisor(communicator)
    hosts = communicator.gather_texts(socket.gethostname())
    is_local = len(set(hosts)) == 1
    ranks = communicator.gather_texts(f"Rank {launched_as()[0]}")
    names = ranks if is_local else [f"{r} ({h})" for r, h in zip(ranks, hosts, strict=True)]
    board, told = None, ""
    if communicator.rank == 0:
        token = secrets.token_hex(TOKEN_BYTES)
        board = Switchboard(bytes.fromhex(token), communicator.world_size - 1, is_local=is_local)
        told = json.dumps([token, board.port, ["127.0.0.1"] if is_local else own_addresses()])
    token, port, addresses = json.loads(communicator.gather_texts(told)[0])
    crew = Crew(communicator.rank, names, hosts, token, can_lose_ranks)
    line = board or call(addresses, port, bytes.fromhex(token), communicator.rank)
    watch = Watch(crew, line, abort, supervisor)
    has_line = communicator.gather_rows(np.array([line is not None]))
    atexit.register(watch.close)
    watch.leave_out([rank for rank, connected in enumerate(has_line) if not connected])
    return watch
