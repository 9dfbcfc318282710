"""The trace of a run: digests of every step, to find the first one in which two runs differ."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lockstep.arrays import Array
from lockstep.data.batches import Batches
from lockstep.nn.mlp import MLP
from lockstep.parallel.communicator import Communicator

_DIGEST_BYTES = 8


@dataclass(frozen=True)
class TraceLine:
    """One step, as `trace.jsonl` tells it.

    Parameters
    ----------
    step, epoch : int
        Counted from 1.
    batch : str
        Digest of the row numbers of the whole step, over all virtual ranks.
    gradient : list of str
        Digest by layer of the mean gradient, as the optimizer gets it.
    parameters : list of str
        Digest by layer of the parameters after the update.
    """

    step: int
    epoch: int
    batch: str
    gradient: list[str]
    parameters: list[str]


def batch_digest(communicator: Communicator, batches: Batches, parts: Sequence[int]) -> str:
    """Return the digest of a step's row numbers; collective.

    Parameters
    ----------
    communicator : Communicator
        The ranks.
    batches : Batches
        After the last part has been filled; all but that are full.
    parts : sequence of int
        The step's, counted over the epoch.
    """
    by_part = [batches.rows(part) for part in parts]
    if batches.used is not None:
        by_part[-1] = np.where(batches.used, by_part[-1], -1)
    return _digest(communicator.gather_rows(np.concatenate(by_part, axis=1)))


def layer_digests(network: MLP, vector: Array) -> list[str]:
    """Return the digest of each layer's part of a flat vector."""
    return [_digest(layer) for layer in network.layers(vector)]


def _digest(values: Array | Sequence[int]) -> str:
    contiguous = np.ascontiguousarray(values)
    return hashlib.blake2b(contiguous.data, digest_size=_DIGEST_BYTES).hexdigest()
