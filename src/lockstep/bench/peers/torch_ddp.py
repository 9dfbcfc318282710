"""PyTorch on several processes: DistributedDataParallel over Gloo."""

import socket
from types import TracebackType
from typing import Self

import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from lockstep.bench.peers.pytorch import Eager
from lockstep.bench.peers.task import Task
from lockstep.parallel.communicator import Communicator

_SAME_HOST = "127.0.0.1"


class Processes:
    """MPI ranks as PyTorch's processes; collective. To be used in a `with` block.

    They find each other by a port of the root's host.

    Parameters
    ----------
    communicator : Communicator
        All ranks.
    """

    def __init__(self, communicator: Communicator) -> None:
        rank, world_size = communicator.rank, communicator.world_size
        hosts = communicator.gather_texts(socket.gethostname())
        root = _SAME_HOST if len(set(hosts)) == 1 else hosts[0]
        store = None
        if rank == 0:
            store = dist.TCPStore(root, 0, world_size, is_master=True, wait_for_workers=False)
        port = communicator.gather_texts(str(store.port) if store else "")[0]
        if store is None:
            store = dist.TCPStore(root, int(port), world_size, is_master=False)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
        self._groups: dict[int, dist.ProcessGroup] = {}

    def prepare(self, num_ranks: int) -> None:
        """Make a group of the first so many processes; collective among all."""
        if num_ranks > 1 and num_ranks not in self._groups:
            self._groups[num_ranks] = dist.new_group(list(range(num_ranks)))

    def start(self, task: Task, num_ranks: int) -> Eager:
        """Begin a training on the first so many processes; collective among those.

        Parameters
        ----------
        task : Task
            This process's share: its own rows, in batches of its own part of every batch.
        num_ranks : int
            On how many; a single one is plain eager PyTorch.
        """
        return Eager(task) if num_ranks == 1 else Distributed(task, self._groups[num_ranks])

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the others; after an error they may not be there any more."""
        del error, traceback
        if kind is None:
            dist.destroy_process_group()


class Distributed(Eager):
    """The usual loop of one process, in which `backward()` averages the gradients of all.

    Parameters
    ----------
    task : Task
        This process's share.
    group : ProcessGroup
        The processes.
    """

    def __init__(self, task: Task, group: "dist.ProcessGroup") -> None:
        super().__init__(task)
        # Views save a copy of each gradient.
        self._forward = DistributedDataParallel(
            self._model, process_group=group, gradient_as_bucket_view=True
        )
