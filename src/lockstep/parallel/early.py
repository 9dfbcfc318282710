"""Signals that come while a program still starts, and nobody is there yet to take them."""

import signal

_HELD = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def hold_signals() -> None:
    """Have signals that would end the process, or ask something of it, wait."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)


def release_signals() -> None:
    """Let those through that have waited, now that there are handlers for them."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
