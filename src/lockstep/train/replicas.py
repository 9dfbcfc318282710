"""The comparison of the ranks' replicas: silent data corruption is found, not trained on."""

import zlib

import numpy as np

from lockstep.arrays import Array
from lockstep.errors import SharedFailureError
from lockstep.nn.mlp import MLP
from lockstep.parallel.communicator import Communicator


def check_replicas(communicator: Communicator, network: MLP, parameters: Array, step: int) -> None:
    """Compare the parameters of all ranks by a checksum of each layer; collective.

    CRC-32 tells any two replicas apart that differ in a single run of up to 32 bits, and others
    but for one in four billion; it is several times as fast as a cryptographic digest.

    Parameters
    ----------
    communicator : Communicator
        The ranks.
    network : MLP
        Tells the layers.
    parameters : ndarray (num_parameters,)
        This rank's replica.
    step : int
        Steps done.

    Raises
    ------
    SharedFailureError
        On all ranks, when the replicas differ; it names the step, the layers and the ranks.
    """
    own = [zlib.crc32(layer.data) for layer in network.layers(parameters)]
    for index, statistics in enumerate(network.statistics(parameters)):
        own[index] = zlib.crc32(statistics.data, own[index])
    by_rank = communicator.gather_rows(np.array([own], np.int64))
    differing = np.flatnonzero((by_rank != by_rank[0]).any(axis=0))
    if not differing.size:
        return
    layers = ", ".join(str(layer + 1) for layer in differing)
    raise SharedFailureError(
        f"After step {step} the ranks' replicas of the parameters differ, in layer {layers}: "
        f"{_groups(by_rank)} don't agree. Memory or a processor has failed, and nothing can be "
        "trusted that came after the last check. Go on from the last checkpoint with --resume, on "
        "other hosts if it happens again."
    )


def _groups(by_rank: Array) -> str:
    """Name the ranks that agree with each other, the smallest group first."""
    groups: dict[bytes, list[int]] = {}
    for rank, checksums in enumerate(by_rank):
        groups.setdefault(checksums.tobytes(), []).append(rank)
    named = [
        f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
        for ranks in sorted(groups.values(), key=len)
    ]
    return " and ".join(named)
