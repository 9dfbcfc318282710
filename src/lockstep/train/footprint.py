"""How much memory a training takes, estimated before any of it is allocated."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from math import prod

import numpy as np

from lockstep.config import Config
from lockstep.data.augmentation import augmentation_bytes
from lockstep.data.dataset_file import LABEL_DTYPE, DatasetInfo
from lockstep.data.memory import MemoryBudget, kept_dtype
from lockstep.data.shards import Sharding
from lockstep.nn.functional import ACTIVATIONS
from lockstep.nn.mlp import MLP
from lockstep.optim.optimizers import OPTIMIZERS
from lockstep.parallel.tree import Node, block
from lockstep.train.blueprint import network_of, sharding_of, strengths_of
from lockstep.train.evaluation import _BLOCK_SIZE as EVALUATED_SAMPLES

# Python's objects for one virtual rank, of any rank: its shards and its place in the tree.
_VIRTUAL_RANK_BYTES = 500
_FLOAT64_BYTES = 8


@dataclass(frozen=True)
class Footprint:
    """What a rank of a training allocates, when that is most.

    What the MPI library and others keep for themselves is not in it, nor what the process is
    before it begins: some tens of megabytes.

    Parameters
    ----------
    parts : dict of str to int
        Bytes by what they are for.
    """

    parts: dict[str, int]

    @property
    def num_bytes(self) -> int:
        """All of it."""
        return sum(self.parts.values())


def estimate(
    config: Config, info: DatasetInfo, hosts: Sequence[str], rank: int, *, is_resumed: bool = False
) -> Footprint:
    """Return how much a rank will allocate.

    Memory that the ranks of a host share is counted once: its rows with the ranks that fill
    them, the sum with the host's first rank.

    Parameters
    ----------
    config : Config
        Resolved. Its sizes may be absurd: nothing of that size is made here.
    info : DatasetInfo
        What is trained on.
    hosts : sequence of str
        By rank.
    rank : int
        Which one; rank 0 saves checkpoints.
    is_resumed : bool
        Whether the training goes on from a checkpoint.
    """
    return _Estimate(config, info, hosts, rank, is_resumed=is_resumed).footprint()


class _Estimate:
    """The sizes that an estimate is made of."""

    def __init__(
        self,
        config: Config,
        info: DatasetInfo,
        hosts: Sequence[str],
        rank: int,
        *,
        is_resumed: bool,
    ) -> None:
        self._config = config
        self._info = info
        self._hosts = hosts
        self._rank = rank
        self._is_resumed = is_resumed
        self._network = network_of(config, info)
        self._dtype = np.dtype(config.network.dtype)
        self._num_virtual_ranks = config.training.virtual_ranks
        self._own = block(rank, len(hosts), self._num_virtual_ranks)
        self._budget = MemoryBudget(config.data.memory_budget_mb, info, self._dtype)
        self._vector_bytes = self._network.num_parameters * self._dtype.itemsize
        self._num_slots = len(OPTIMIZERS[config.optimization.optimizer].slots)

    def footprint(self) -> Footprint:
        """Return what there is all the time, and the most of what there is at one time or other."""
        shardings = self._shardings()
        lasting = {
            "parameters": self._vector_bytes,
            "samples": sum(self._samples_bytes(*each) for each in shardings.items()),
            "activations": sum(
                self._activations_bytes(sharding, is_trained_on=split == "train")
                for split, sharding in shardings.items()
            ),
            "augmentation": self._augmentation_bytes(shardings),
            "drawing of masks": self._drawing_bytes(shardings),
            "average of the weights": self._average_bytes,
            "virtual ranks": self._num_virtual_ranks * _VIRTUAL_RANK_BYTES,
            "the checkpoint to go on from": self._resumed_bytes(),
        }
        moments = [self.drawing(), self.testing_sums(), self.training()]
        parts = lasting | max(moments, key=lambda moment: sum(moment.values()))
        return Footprint({what: size for what, size in parts.items() if size})

    def drawing(self) -> dict[str, int]:
        """Return what initial weights take: a layer in float64, before and after its biases.

        The layer itself and those above it have not been written to at that time.
        """
        num_parameters, itemsize = self._network.num_parameters, self._dtype.itemsize
        extra_bytes = (
            2 * (layer.stop - layer.start) * _FLOAT64_BYTES
            - (num_parameters - layer.start) * itemsize
            for layer in self._network.layer_slices
        )
        return {"drawing the initial weights": max(0, *extra_bytes)}

    def testing_sums(self) -> dict[str, int]:
        """Return what the self-test of the reduction takes."""
        if len(self._hosts) == 1:
            return {}
        # A sum of known numbers, with their places as integers of eight and of four bytes. What the
        # library adds is compared up to rounding, of which there is another vector.
        is_ordered = self._config.training.reduction == "ordered"
        each = 2 * _FLOAT64_BYTES + 4 + (2 if is_ordered else 3) * self._dtype.itemsize
        return {
            "gradients": self._gradients_bytes(),
            "testing the sum of gradients": each * self._network.num_parameters,
            # Without a checkpoint, there is none of this yet.
            "optimizer state": self._is_resumed * self._num_slots * self._vector_bytes,
            "best parameters": self._is_resumed * self._best_bytes,
        }

    def training(self) -> dict[str, int]:
        """Return what there is after the first epochs.

        The root's copy for a checkpoint is written while the training goes on. Others that wait
        beside it, where the disk is slower than an epoch, are not counted. Elsewhere than on the
        root, better parameters are copied before they take the place of the best ones.
        """
        state_bytes = self._num_slots * self._vector_bytes
        optimizer = OPTIMIZERS[self._config.optimization.optimizer]
        makes_all = self._makes_whole_update or optimizer.keeps_whole_state
        is_whole = self._rank == 0 or self._is_resumed or makes_all
        if not is_whole and self._config.training.reduction == "ordered":
            # Only the root collects what the others have.
            state_bytes //= len(self._hosts)
        is_root = self._rank == 0
        return {
            "gradients": self._gradients_bytes(),
            "optimizer state": state_bytes,
            "best parameters": self._best_bytes * (1 if is_root else 2),
            "copy for the checkpoint": is_root
            * ((1 + self._num_slots) * self._vector_bytes + self._average_bytes),
            "penalty and clipping": self._update_bytes(),
            "folded normalization": self._vector_bytes * bool(self._network.num_statistics),
        }

    def _update_bytes(self) -> int:
        """Return what an update takes beside gradients and state."""
        optimization, num_bytes = self._config.optimization, 0
        if optimization.l1 or optimization.l2:
            # The penalty's gradient of a layer.
            num_bytes += max(map(prod, self._network.layer_shapes)) * self._dtype.itemsize
        if self._makes_whole_update:
            num_bytes += self._vector_bytes
        return num_bytes

    @property
    def _makes_whole_update(self) -> bool:
        """Whether each rank copies the whole gradient; see `Update`."""
        training = self._config.training
        is_skipping = training.on_nonfinite == "skip"
        return bool(self._config.optimization.clip_norm or training.trace or is_skipping)

    @property
    def _best_bytes(self) -> int:
        return self._vector_bytes * (self._config.training.tested_weights == "best")

    @property
    def _average_bytes(self) -> int:
        return self._vector_bytes * (self._config.optimization.averaging != "none")

    def _resumed_bytes(self) -> int:
        if not self._is_resumed:
            return 0
        return (1 + self._num_slots) * self._vector_bytes + self._best_bytes + self._average_bytes

    def _gradients_bytes(self) -> int:
        """Return the size of the own virtual ranks' gradients and of what adds them up."""
        own_host = self._hosts[self._rank]
        num_vectors = _num_subtotals(self._own, Node(0, self._num_virtual_ranks))
        if self._config.training.reduction == "ordered" and len(self._hosts) > 1:
            # The sum.
            num_vectors += self._rank == self._hosts.index(own_host)
        leaf_bytes = 0
        if len(self._own) > 1:
            # One layer at a time.
            largest = max(map(prod, self._network.layer_shapes))
            leaf_bytes = len(self._own) * largest * self._dtype.itemsize
        if self._config.training.accumulation > 1:
            # The sums over the parts of a step that came before.
            num_vectors += len(self._own)
        return num_vectors * self._vector_bytes + leaf_bytes + self._messages_bytes()

    def _messages_bytes(self) -> int:
        """Return the size of what a rank sends to others and receives at a time."""
        ranks_by_host = [self._hosts.count(host) for host in set(self._hosts)]
        if len(self._hosts) > 1 and self._config.training.reduction == "mpi":
            # The library's own.
            return self._vector_bytes
        if len(ranks_by_host) == 1:
            return 0
        # The rank's part of the vector, both ways.
        return 2 * self._vector_bytes // min(ranks_by_host)

    def _shardings(self) -> dict[str, Sharding]:
        """Return the division of each split that has rows, as the trainer makes it."""
        num_virtual_ranks, shardings = self._num_virtual_ranks, {}
        for split, num_rows in self._info.num_samples.items():
            if not num_rows:
                continue
            if split == "train":
                shardings[split] = sharding_of(self._config, self._info)
                continue
            local = min(EVALUATED_SAMPLES, -(-num_rows // num_virtual_ranks))
            shardings[split] = Sharding(num_rows, local * num_virtual_ranks, num_virtual_ranks)
        return shardings

    def _samples_bytes(self, split: str, sharding: Sharding) -> int:
        """Return the size of the rows that are kept, or of the two blocks of them."""
        num_rows = self._own_part(sharding.num_rows)
        if not self._budget.fits(split, num_rows):
            steps_per_block = self._budget.blocks(split, sharding).steps_per_block
            num_rows = 2 * steps_per_block * self._own_part(sharding.global_batch_size)
        return num_rows * self._budget.row_bytes

    def _own_part(self, total: int) -> int:
        """Return the own virtual ranks' part of so many samples."""
        return -(-total * len(self._own) // self._num_virtual_ranks)

    def _dropped_widths(self) -> tuple[list[int], list[int]]:
        """Return the widths that have masks: of the features, if they do, and of hidden layers."""
        regularization = self._config.regularization
        features, *hidden, _ = self._network.widths
        rates = regularization.dropout or (0.0,)
        own = [width for width, rate in zip(hidden, cycle(rates), strict=False) if rate]
        return [features] if regularization.input_dropout else [], own

    def _mask_numbers_per_sample(self) -> int:
        """Return how many numbers the masks of dropout have, with what they are applied to."""
        inputs, hidden = self._dropped_widths()
        return 2 * sum(width + 1 for width in hidden) + sum(width + 1 for width in inputs)

    def _drawing_bytes(self, shardings: dict[str, Sharding]) -> int:
        """Return the size of the random bits of a mask, 16 for each number of a virtual rank."""
        inputs, hidden = self._dropped_widths()
        return 2 * self._local_batch_size(shardings) * max([*inputs, *hidden], default=0)

    def _augmentation_bytes(self, shardings: dict[str, Sharding]) -> int:
        """Return the size of what a virtual rank's part of a batch is changed in."""
        num_samples = self._local_batch_size(shardings)
        strengths = strengths_of(self._config)
        return augmentation_bytes(strengths, self._info, num_samples, self._dtype)

    def _local_batch_size(self, shardings: dict[str, Sharding]) -> int:
        """Return how many samples a virtual rank has at a time; 0 without training rows."""
        if "train" not in shardings:
            return 0
        return -(-shardings["train"].global_batch_size // self._num_virtual_ranks)

    def _activations_bytes(self, sharding: Sharding, *, is_trained_on: bool) -> int:
        """Return the size of a batch with all that is computed of it."""
        largest_batch = min(sharding.global_batch_size, sharding.num_rows)
        num_samples = len(self._own) * -(-largest_batch // self._num_virtual_ranks)
        kept = kept_dtype(self._info.dtype, self._dtype)
        # Narrow numbers are gathered as they are stored, before they are scaled.
        stored_bytes = (self._info.num_features + 1) * kept.itemsize * (kept != self._dtype)
        num_numbers = numbers_per_sample(
            self._network if is_trained_on else self._network.evaluated
        )
        if is_trained_on:
            num_numbers += self._mask_numbers_per_sample()
        sample_bytes = num_numbers * self._dtype.itemsize
        return num_samples * (sample_bytes + LABEL_DTYPE.itemsize + stored_bytes)


def numbers_per_sample(network: MLP) -> int:
    """Return how many numbers a `Workspace` has for each sample, beside its label."""
    features, *hidden, classes = network.widths
    # Activation, scratch, delta; and the pre-activation, where it isn't the activation's place.
    per_unit = 3 + ACTIVATIONS[network.activation].keeps_input
    num_hidden = per_unit * sum(width + 1 for width in hidden)
    if network.normalization != "none":
        num_hidden += sum(hidden)
    if network.normalization == "layer":
        # Each sample's mean, variance, and one over its root.
        num_hidden += 3 * len(hidden)
    # Target, output, delta, scratch; the loss; and the share in the means of its batch.
    return features + 1 + num_hidden + 4 * classes + 1 + (network.normalization == "batch")


def _num_subtotals(own: range, node: Node) -> int:
    """Return how many nodes of the tree cover a rank's virtual ranks; see `covering_nodes`.

    The leaves are not looked at one by one, for they may be absurdly many.
    """
    if own.stop <= node.start or node.stop <= own.start:
        return 0
    if own.start <= node.start and node.stop <= own.stop:
        return 1
    return sum(_num_subtotals(own, child) for child in node.children)
