"""What a peer has to offer, and which peers there are."""

from collections.abc import Iterable
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Protocol

from lockstep.arrays import Array
from lockstep.bench.peers.task import Samples, Task
from lockstep.config import near_misses
from lockstep.errors import UserError


class Training(Protocol):
    """A training that has begun, in one process and one thread."""

    def train(self, num_steps: int) -> None:
        """Train so many steps, beginning with a new epoch, and return when they are done.

        Every batch is gathered out of the data in memory; shuffling counts too.
        """

    def layers(self) -> list[Array]:
        """Return each layer's weights with the biases as the last row, (fan_in + 1, fan_out)."""

    def num_correct(self, samples: Samples) -> int:
        """Return how many samples are classified correctly."""


class UnavailableError(Exception):
    """A peer can't take part; the message is the reason."""


@dataclass(frozen=True)
class Peer:
    """Another way to train the same network.

    Parameters
    ----------
    name : str
        In tables, and on the command line in whatever case.
    package : str
        What to install.
    training : str
        Where its class is, `module:class`. It takes a `Task` and is a `Training`. The module is
        loaded when it is needed: it imports the package.
    knows_adamw : bool
        Whether it is written for AdamW, or at least Adam, beside SGD.
    """

    name: str
    package: str
    training: str
    knows_adamw: bool = False

    def start(self, task: Task) -> Training:
        """Begin a training.

        Raises
        ------
        UnavailableError
            When it can't: the package is not installed, for example.
        """
        training: Training = self.load()(task)
        return training

    def load(self) -> Any:  # noqa: ANN401 - each is made in its own way
        """Return the class.

        Raises
        ------
        UnavailableError
            When the package is not installed.
        """
        try:
            return resolve_name(f"{__package__}.{self.training}")
        except ImportError as error:
            raise UnavailableError(
                f"{self.package} is not installed: pip install 'lockstep-sgd[peers]' ({error})"
            ) from error


PEERS = (
    Peer("PyTorch-eager", "torch", "pytorch:Eager", knows_adamw=True),
    Peer("PyTorch-compiled", "torch", "pytorch:Compiled"),
    Peer("scikit-learn", "scikit-learn", "scikit_learn:Classifier", knows_adamw=True),
    Peer("JAX", "jax", "jax_scan:Scan", knows_adamw=True),
    Peer("per-sample", "numpy", "per_sample:PerSample"),
)


def peers_named(text: str | None, choices: Iterable[Peer] = PEERS) -> list[Peer]:
    """Return the peers that an option names.

    Parameters
    ----------
    text : str or None
        Their names, separated by commas. None are all of them.
    choices : iterable of Peer
        Those there are.

    Raises
    ------
    UserError
        When there is no such peer.
    """
    by_name = {peer.name.lower(): peer for peer in choices}
    if text is None:
        return list(by_name.values())
    words = [word.strip().lower() for word in text.split(",")]
    for word in words:
        if word not in by_name:
            raise UserError(
                f"--peers {text}: there is no peer {word!r}{near_misses(word, by_name)}. "
                f"There are: {', '.join(by_name)}."
            )
    return [peer for name, peer in by_name.items() if name in words]


def packages(peers: Iterable[Peer]) -> list[str]:
    """Return what the peers need, once each."""
    return list(dict.fromkeys(peer.package for peer in peers))
