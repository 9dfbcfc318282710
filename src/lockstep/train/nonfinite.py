"""Numbers gone bad: where those that are infinite, or no numbers, come from.

The steps only take note that something is not finite, which costs next to nothing. What is here is
slow, and only called when it happened.
"""

from collections.abc import Iterable

import numpy as np

from lockstep.arrays import Array
from lockstep.errors import SharedError
from lockstep.nn.mlp import MLP
from lockstep.parallel.communicator import Communicator
from lockstep.train.gradient import SAMPLES

_HINT = (
    "Try a smaller --learning-rate, or --clip-norm 1; features of large numbers want converting "
    "with --standardize."
)
_SKIP_HINT = " With --on-nonfinite skip, a run leaves such steps out."


class DivergedError(SharedError):
    """A loss, gradient or parameter is infinite or not a number; on all ranks alike.

    Parameters
    ----------
    what : str
        When it was noticed, and where.
    saved_step : int
        Step of the last checkpoint.
    can_skip : bool
        Whether another run could leave the step out.
    """

    def __init__(self, what: str, saved_step: int, *, can_skip: bool = False) -> None:
        kept = f"The checkpoint of step {saved_step} is from before."
        hint = _HINT + _SKIP_HINT * can_skip
        super().__init__(f"The training has diverged {what}. {kept} {hint}")


def find_origin(
    communicator: Communicator, virtual_ranks: range, stages: Iterable[tuple[str, Array]]
) -> str:
    """Find out where in a step numbers are not finite first; collective.

    Parameters
    ----------
    communicator : Communicator
        The ranks.
    virtual_ranks : range
        This rank's.
    stages : iterable of (str, ndarray (num_virtual_ranks, ...))
        What the step computes, in its order: see `Backpropagation.stages`.

    Returns
    -------
    str
        The first stage that is not finite on the lowest virtual rank that has one.
    """
    names = []
    first_stages = np.full(len(virtual_ranks), -1)
    for number, (name, values) in enumerate(stages):
        names.append(name)
        is_bad = ~np.isfinite(values).reshape(len(virtual_ranks), -1).all(axis=1)
        first_stages[is_bad & (first_stages < 0)] = number
    ranks = np.full(len(virtual_ranks), communicator.rank)
    table = communicator.gather_rows(np.stack([first_stages, ranks], axis=1))
    bad = np.flatnonzero(table[:, 0] >= 0)
    if not bad.size:
        return "the sum over the virtual ranks, each of which is finite"
    stage, rank = table[bad[0]]
    others = f", and {bad.size - 1} more" if bad.size > 1 else ""
    samples = "" if names[stage] == SAMPLES else "; the samples there are finite"
    return f"{names[stage]} of virtual rank {bad[0]} (rank {rank}{others}){samples}"


def find_bad_layers(communicator: Communicator, network: MLP, parameters: Array) -> str:
    """Tell which layers' parameters are not finite, and on which ranks; collective.

    Returns
    -------
    str
        Empty when all are finite.
    """
    own = [not np.isfinite(layer).all() for layer in network.layers(parameters)]
    for index, statistics in enumerate(network.statistics(parameters)):
        own[index] |= not np.isfinite(statistics).all()
    by_rank = communicator.gather_rows(np.array([own]))
    layers = ", ".join(str(layer + 1) for layer in np.flatnonzero(by_rank.any(axis=0)))
    ranks = np.flatnonzero(by_rank.any(axis=1))
    where = "" if ranks.size == len(by_rank) else f" on rank {', '.join(map(str, ranks))}"
    return f"the parameters of layer {layers}{where}" if layers else ""
