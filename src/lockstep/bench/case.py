"""What a benchmark trains: a network, a batch size, and a training that is nothing but steps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lockstep.config import Activation, Config, Network, Optimization, Training

ReductionName = Literal["ordered", "mpi"]

# Small: after many rounds on random labels, the numbers are still usual ones.
SGD = Optimization(optimizer="sgd", schedule="constant", learning_rate=0.01)


@dataclass(frozen=True)
class Case:
    """A network to train.

    Parameters
    ----------
    hidden_widths : tuple of int
        Its hidden layers.
    global_batch_size : int
        Samples of a step.
    num_steps : int
        Steps of a round; 0 where the benchmark finds out how many make a good one.
    activation : str
        Of the hidden layers.
    """

    hidden_widths: tuple[int, ...]
    global_batch_size: int
    num_steps: int = 0
    activation: Activation = "relu"


def with_steps(cases: Sequence[Case], num_steps: int | None) -> list[Case]:
    """Return the cases with another number of steps, where one is given."""
    return [replace(case, num_steps=num_steps or case.num_steps) for case in cases]


def steps_only(
    case: Case, optimization: Optimization, reduction: ReductionName = "ordered"
) -> Config:
    """Return a training that does nothing but steps, and doesn't end by itself.

    Parameters
    ----------
    case : Case
        The network.
    optimization : Optimization
        The update rule.
    reduction : str
        How gradients are added up.
    """
    return Config(
        network=Network(hidden_widths=case.hidden_widths, activation=case.activation),
        optimization=optimization,
        training=Training(
            epochs=1_000_000,
            global_batch_size=case.global_batch_size,
            reduction=reduction,
            tested_weights="last",
            checkpoint_every_minutes=0,
            replica_check_every=0,
        ),
    )
