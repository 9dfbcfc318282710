"""Heartbeats between ranks: small messages over TCP, which need nothing of MPI.

Every rank is connected to the root. A rank that dies is noticed at once, for the system closes
its connection; one that is stopped, or whose host is lost, by its silence.
"""

import hmac
import select
import selectors
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress

from lockstep.parallel.judge import Beat

# Which kind of message, then what a `Beat` holds.
_LAYOUT = struct.Struct("!cq32s??dQi")
_HELLO = struct.Struct("!16sq")
_BEAT, _FAREWELL, _ABORT, _SIGNAL = b"b", b"f", b"a", b"s"
_PATIENCE_S = 2.0
# How long the root, which may be busy, is waited for.
_CALL_S = 20.0
TOKEN_BYTES = 16


class Connection:
    """One end of the line between a rank and the root.

    Parameters
    ----------
    stream : socket
        Connected.

    Attributes
    ----------
    is_cut : bool
        Whether there is nobody at the other end any more.
    has_left : bool
        Whether the other end has said farewell.
    abort_code : int or None
        The exit code with which it ends all ranks, once it has said so, and why.
    signals : list of int
        Signals that it has passed on.
    """

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self._received = b""
        self.is_cut = False
        self.has_left = False
        self.abort_code: int | None = None
        self.signals: list[int] = []
        # A peer that is stopped must not stop who writes to it.
        stream.settimeout(_PATIENCE_S)

    def send(self, beat: Beat) -> None:
        """Send a heartbeat; a connection that is cut is found when it is read."""
        phase = beat.phase.encode()[:32]
        amounts = (beat.cpu_s, beat.moved_bytes, beat.group)
        self._send(_BEAT, beat.step, phase, beat.is_step, beat.is_waiting, *amounts)

    def farewell(self) -> None:
        """Tell that this end closes as it should."""
        self._send(_FAREWELL, 0, b"", False, False, 0.0, 0, 0)

    def announce_abort(self, exit_code: int) -> None:
        """Tell that this end is about to end all ranks."""
        self._send(_ABORT, exit_code, b"", False, False, 0.0, 0, 0)

    def pass_on(self, number: int) -> None:
        """Pass a signal on to the other end."""
        self._send(_SIGNAL, number, b"", False, False, 0.0, 0, 0)

    def _send(self, *content: object) -> None:
        with suppress(OSError):
            self.stream.sendall(_LAYOUT.pack(*content))

    def receive(self) -> list[Beat] | None:
        """Return the heartbeats that have come; None when there will be no more."""
        try:
            received = self.stream.recv(4096)
        except OSError:
            received = b""
        if not received:
            self.is_cut = True
            return None
        self._received += received
        return list(self._beats())

    def receive_for(self, timeout_s: float) -> list[Beat] | None:
        """Wait a while for heartbeats, and return them as `receive` does."""
        try:
            ready, _, _ = select.select([self.stream], [], [], timeout_s)
        except (OSError, ValueError):
            return None
        return self.receive() if ready else []

    def _beats(self) -> Iterator[Beat]:
        while len(self._received) >= _LAYOUT.size:
            message, self._received = (
                self._received[: _LAYOUT.size],
                self._received[_LAYOUT.size :],
            )
            kind, step, phase, is_step, is_waiting, *amounts = _LAYOUT.unpack(message)
            if kind == _FAREWELL:
                self.has_left = True
            elif kind == _ABORT:
                self.abort_code = step
            elif kind == _SIGNAL:
                self.signals.append(step)
            else:
                name = phase.rstrip(b"\0").decode(errors="replace")
                yield Beat(step, name, is_step, is_waiting, *amounts)

    def close(self) -> None:
        """Close this end."""
        self.stream.close()


class Switchboard:
    """The root's end of all lines.

    Parameters
    ----------
    token : bytes (16,)
        Ranks of this job know it; others are not let in.
    num_others : int
        How many ranks there are beside the root.
    is_local : bool
        Whether all of them are on this host; then no other host can connect.
    """

    def __init__(self, token: bytes, num_others: int, *, is_local: bool) -> None:
        self._token = token
        self._num_others = num_others
        address = "127.0.0.1" if is_local else ""
        self._server = socket.create_server((address, 0), backlog=max(128, num_others))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self.connections: dict[int, Connection] = {}

    @property
    def port(self) -> int:
        """Where the ranks are to call."""
        port: int = self._server.getsockname()[1]
        return port

    def events(self, timeout_s: float) -> Iterator[tuple[int, list[Beat] | None]]:
        """Wait a while, and yield ranks and what has come of them; None for a cut connection."""
        for key, _ in self._selector.select(timeout_s):
            if key.fileobj is self._server:
                self._accept()
                continue
            rank: int = key.data
            beats = self.connections[rank].receive()
            if beats is None:
                self._selector.unregister(key.fileobj)
            yield rank, beats

    def _accept(self) -> None:
        stream, _ = self._server.accept()
        try:
            token, rank = _HELLO.unpack(_receive_exactly(stream, _HELLO.size))
        except (OSError, struct.error):
            stream.close()
            return
        is_expected = 0 <= rank <= self._num_others and rank not in self.connections
        if not (hmac.compare_digest(token, self._token) and is_expected):
            stream.close()
            return
        self.connections[rank] = Connection(stream)
        self._selector.register(stream, selectors.EVENT_READ, rank)
        # From this answer on, the rank counts on being told of the end.
        with suppress(OSError):
            stream.sendall(_BEAT)

    def send(self, beat: Beat) -> None:
        """Send a heartbeat to all."""
        for connection in self.connections.values():
            connection.send(beat)

    def farewell(self) -> None:
        """Tell all that this end closes as it should."""
        for connection in self.connections.values():
            connection.farewell()

    def close(self) -> None:
        """Close all lines."""
        for connection in self.connections.values():
            connection.close()
        self._selector.close()
        self._server.close()


def call(addresses: list[str], port: int, token: bytes, rank: int) -> Connection | None:
    """Connect to the root at the first of its addresses that answers; None if none does."""
    for address in addresses:
        with suppress(OSError):
            stream = socket.create_connection((address, port), timeout=_PATIENCE_S)
            stream.settimeout(_CALL_S)
            try:
                stream.sendall(_HELLO.pack(token, rank))
                if stream.recv(1) == _BEAT:
                    return Connection(stream)
            except OSError:
                pass
            # Some other program listens there.
            stream.close()
    return None


def own_addresses() -> list[str]:
    """Return where this host may be reached, by IPv4."""
    import psutil  # noqa: PLC0415 - only needed where there are several hosts

    found = [
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET and not entry.address.startswith("127.")
    ]
    return [*found, socket.gethostname()]


def _receive_exactly(stream: socket.socket, num_bytes: int) -> bytes:
    """Return so many bytes, or fewer if they don't come soon."""
    end_s = time.monotonic() + _PATIENCE_S
    received = b""
    while len(received) < num_bytes:
        # However slowly they come: whoever waits here keeps the watchdog from its work.
        stream.settimeout(max(0.001, end_s - time.monotonic()))
        more = stream.recv(num_bytes - len(received))
        if not more:
            break
        received += more
    return received
