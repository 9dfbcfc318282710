"""The supervisor: starts the ranks, and starts them again when one of them has died."""

import json
import math
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import click

from lockstep.errors import FAILURE, INTERRUPTED, RANK_LOST, RESUMABLE, USER_ERROR
from lockstep.parallel.early import release_signals
from lockstep.parallel.heartbeat import TOKEN_BYTES, Connection, Switchboard, own_addresses
from lockstep.parallel.judge import Beat, Judge
from lockstep.parallel.launch import Launch
from lockstep.parallel.watch import SUPERVISOR

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# After these there is nothing to be gained by starting again.
_FINAL = (FAILURE, USER_ERROR, INTERRUPTED, RESUMABLE)
# A host that can be reached starts a program within this time.
_PROBE_S = 20
# What a launcher may take to end when a rank has died.
_ENDING_S = 8
# How soon the end of the launcher is noticed.
_LOOK_S = 0.05


def supervise(
    launch: Launch,
    next_arguments: Callable[[], list[str]],
    is_done: Callable[[], bool],
    num_restarts: int,
    remedy: str,
) -> int:
    """Run ranks until they are done, and again when one of them was lost.

    Parameters
    ----------
    launch : Launch
        How to start them.
    next_arguments : callable
        Returns the command line of `lockstep` for the next start.
    is_done : callable
        Whether the job has reached its end. A launcher's exit code 0 alone does not prove it.
    num_restarts : int
        How often to start again.
    remedy : str
        What to do when a rank is lost.

    Returns
    -------
    int
        The exit code.
    """
    signals: list[int] = []
    with _noting(signals):
        for restart in range(num_restarts + 1):
            attempt = _Attempt(launch, remedy, signals)
            exit_code = attempt.run(next_arguments())
            if exit_code == 0 and is_done():
                return 0
            if attempt.was_stopped or (exit_code in _FINAL and not attempt.has_lost_rank):
                return exit_code if exit_code in _FINAL else RESUMABLE
            if restart < num_restarts:
                launch = without_lost_hosts(launch)
                ranks = f"{launch.num_ranks} rank{'s' * (launch.num_ranks > 1)}"
                click.echo(f"Restart {restart + 1} of {num_restarts}, on {ranks}.", err=True)
            if set(signals) & set(_STOPPING):
                # It came while nobody was there to be told.
                return RESUMABLE
        return RANK_LOST if attempt.has_begun else FAILURE


class _Attempt:
    """One start of the ranks. Listens to their heartbeats, to tell which one has died first.

    The launcher ends all others then, often before one of them can say anything.

    Attributes
    ----------
    was_stopped : bool
        Whether a signal to stop was passed on.
    has_begun : bool
        Whether any rank was heard of; a single one never calls.
    """

    def __init__(self, launch: Launch, remedy: str, signals: list[int]) -> None:
        self._launch = launch
        self._remedy = remedy
        self._judge = Judge([f"Rank {rank}" for rank in range(launch.num_ranks)], 0.0)
        self.was_stopped = False
        self._signals = signals
        self._perhaps_lost: list[int] = []
        self.has_begun = launch.num_ranks == 1
        self._is_told = False
        self._abort_code: int | None = None
        self._dead: int | None = None
        self._is_fresh = False
        self._deadline_s = math.inf

    def run(self, arguments: list[str]) -> int:
        """Run `lockstep ARGUMENTS...` on the ranks, and return how they have ended."""
        token = secrets.token_hex(TOKEN_BYTES)
        is_local = self._launch.is_here
        # One more than the others, for the root is a rank like all of them here.
        board = Switchboard(bytes.fromhex(token), self._launch.num_ranks, is_local=is_local)
        addresses = ["127.0.0.1"] if is_local else own_addresses()
        where = json.dumps([token, board.port, addresses])
        command, environment = self._launch.command(arguments, {SUPERVISOR: where})
        # In a session of its own, the terminal's Ctrl-C reaches it once, from here.
        process = subprocess.Popen(  # noqa: S603 - our own program
            command, env=environment, start_new_session=True
        )
        self._listen(board, process)
        if self._dead is not None and process.returncode:
            text = self._judge.has_died(self._dead, is_fresh=self._is_fresh)
            click.echo(f"Error: {text} {self._remedy}", err=True)
        elif process.returncode and not self.has_begun:
            click.echo(
                f"{command[0]} has ended with exit code {process.returncode} before the ranks had "
                "found each other.",
                err=True,
            )
        return self._exit_code(process.returncode)

    def _exit_code(self, of_launcher: int) -> int:
        """Return the launcher's exit code, or that of the rank that has ended all.

        Open MPI's mpiexec may crash once it has ended the ranks (open-mpi/ompi#13650).
        """
        if of_launcher == -signal.SIGSEGV and self._abort_code is not None:
            return self._abort_code
        return of_launcher

    def _listen(self, board: Switchboard, process: subprocess.Popen[bytes]) -> None:
        is_running = True
        while is_running:
            is_running = process.poll() is None
            self._pass_signals_on(board, process)
            self._hear_all(board, _LOOK_S)
            if is_running and time.monotonic() > self._deadline_s:
                # It waits for a host that is lost.
                os.killpg(process.pid, signal.SIGKILL)
        # The last ones may have come while the launcher ended.
        while self._hear_all(board, 0.0):
            pass
        board.close()

    @property
    def has_lost_rank(self) -> bool:
        """Whether a rank has died before any other has ended the job."""
        return self._dead is not None

    def _hear_all(self, board: Switchboard, timeout_s: float) -> bool:
        """Hear what has come within a time, and return whether anything has."""
        events = list(board.events(timeout_s))
        for rank, beats in events:
            self.has_begun = True
            self._hear(rank, beats, board.connections[rank])
        return bool(events)

    def _pass_signals_on(self, board: Switchboard, process: subprocess.Popen[bytes]) -> None:
        """Pass signals on to one rank: those that are for all, the ranks tell each other."""
        there = [line for line in board.connections.values() if not line.is_cut]
        while there and self._perhaps_lost:
            there[0].pass_on(self._perhaps_lost.pop(0))
        while self._signals:
            number = self._signals.pop(0)
            self.was_stopped |= number in _STOPPING
            if there:
                # Not by way of the launcher: Open MPI's would end all ranks at once.
                there[0].pass_on(number)
                continue
            process.send_signal(number)
            if number != signal.SIGINT:
                # MPICH's launcher drops it if it hasn't started the ranks. A second Ctrl-C, though,
                # would end them without a checkpoint.
                self._perhaps_lost.append(number)

    def _hear(self, rank: int, beats: list[Beat] | None, connection: Connection) -> None:
        for beat in beats or ():
            self._judge.take(rank, beat, 0.0)
            self._is_fresh = self._dead is not None
        # A rank that ends the others has told why.
        is_aborting = connection.abort_code is not None
        self._is_told |= self.was_stopped or (is_aborting and self._dead is None)
        is_death = beats is None and not connection.has_left
        if is_aborting:
            self._abort_code = self._abort_code or connection.abort_code
            self._deadline_s = min(self._deadline_s, time.monotonic() + _ENDING_S)
        if is_death and not self._is_told and self._dead is None:
            self._dead = rank


@contextmanager
def _noting(signals: list[int]) -> Iterator[None]:
    """Take note of signals instead of being ended by them."""

    def take_note(number: int, frame: FrameType | None) -> None:
        del frame
        signals.append(number)

    before = {number: signal.signal(number, take_note) for number in _PASSED_ON}
    release_signals()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def without_lost_hosts(launch: Launch) -> Launch:
    """Return the launch without the hosts that can't be reached any more, and their ranks."""
    if not launch.hosts:
        return launch
    probes = {host: _probe(launch.on_hosts({host: 1})) for host in launch.hosts}
    reached = [host for host, probe in probes.items() if _has_worked(probe)]
    lost = [host for host in launch.hosts if host not in reached]
    if not lost or not reached:
        return launch
    click.echo(f"Warning: {', '.join(lost)} can't be reached any more.", err=True)
    return launch.on_hosts({host: launch.hosts[host] for host in reached})


def _probe(launch: Launch) -> subprocess.Popen[bytes]:
    command, environment = launch.command([], program=("true",))
    return subprocess.Popen(  # noqa: S603 - the launcher
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _has_worked(probe: subprocess.Popen[bytes]) -> bool:
    try:
        return probe.wait(_PROBE_S) == 0
    except subprocess.TimeoutExpired:
        os.killpg(probe.pid, signal.SIGKILL)
        probe.wait()
        return False
