"""Shards and batches: every row exactly once, in an order that only depends on its address."""

import numpy as np
import pytest

from lockstep.data.batches import Batches, scaling_of
from lockstep.data.dataset_file import DatasetFile
from lockstep.data.shards import Sharding, proportional_share, share

SHARDINGS = [
    (50_000, 64, 4), (50_000, 10, 4), (1437, 32, 4), (10, 6, 4), (7, 9, 9), (7, 7, 3), (1, 4, 4),
    (100, 100, 7), (101, 10, 10), (5, 100, 8), (1000, 37, 5),
]  # fmt: skip


def test_shares_differ_by_one_at_most_and_follow_their_weights():
    assert share(10, 4) == [2, 3, 2, 3]
    assert proportional_share(4, [3, 3, 2]) == [1, 2, 1]
    assert proportional_share(0, [1, 1]) == [0, 0]


@pytest.mark.parametrize(("num_rows", "global_batch_size", "virtual_ranks"), SHARDINGS)
def test_all_virtual_ranks_finish_the_epoch_together(num_rows, global_batch_size, virtual_ranks):
    sharding = Sharding(num_rows, global_batch_size, virtual_ranks)
    steps = sharding.steps_per_epoch
    assert sum(sharding.shard_sizes) == num_rows
    assert sum(sharding.local_batch_sizes) == global_batch_size
    assert sum(sharding.num_samples(step) for step in range(steps)) == num_rows
    for size, local in zip(sharding.shard_sizes, sharding.local_batch_sizes, strict=True):
        # Full batches in all steps but the last, which takes what is left.
        assert (steps - 1) * local <= size <= steps * local


@pytest.fixture
def digits(digits_file):
    with DatasetFile.open(digits_file) as dataset:
        yield dataset


def epoch_rows(dataset, virtual_ranks, world, epoch, batch=37, seed=3):
    """The rows of each virtual rank by step, as the ranks of a world see them."""
    sharding = Sharding(dataset.info.num_samples["train"], batch, virtual_ranks)
    scaling = scaling_of(dataset, "float32")
    seen = []
    for rank in range(world):
        block = range(rank * virtual_ranks // world, (rank + 1) * virtual_ranks // world)
        batches = Batches(dataset, "train", sharding, block, scaling)
        batches.shuffle(seed, epoch)
        inputs = np.empty((*batches.shape, dataset.info.num_features), np.float32)
        labels = np.empty(batches.shape, np.int32)
        steps = []
        for step in batches:
            batches.fill(step, inputs, labels)
            used = np.ones(batches.shape, bool) if batches.used is None else batches.used
            assert not inputs[~used].any()
            steps.append([r[u].tolist() for r, u in zip(batches.rows(step), used, strict=True)])
        seen += [list(of_one) for of_one in zip(*steps, strict=True)]
    return seen


def test_an_epoch_shows_every_row_once(digits):
    rows = [row for steps in epoch_rows(digits, 5, 1, epoch=1) for step in steps for row in step]
    assert sorted(rows) == list(range(1437))
    assert rows != sorted(rows)


@pytest.mark.parametrize("world", [2, 3, 5])
def test_the_order_does_not_depend_on_the_ranks(digits, world):
    assert epoch_rows(digits, 5, world, epoch=1) == epoch_rows(digits, 5, 1, epoch=1)


def test_epochs_and_seeds_have_orders_of_their_own(digits):
    first = epoch_rows(digits, 2, 1, epoch=1)
    assert first != epoch_rows(digits, 2, 1, epoch=2)
    assert first != epoch_rows(digits, 2, 1, epoch=1, seed=4)
    assert first == epoch_rows(digits, 2, 1, epoch=1)


def test_a_batch_holds_the_scaled_rows_and_their_labels(digits):
    sharding = Sharding(1437, 8, 2)
    batches = Batches(digits, "train", sharding, range(1, 2), scaling_of(digits, "float64"))
    batches.shuffle(0, 1)
    inputs, labels = np.empty((1, 4, 64)), np.empty((1, 4), np.int32)
    batches.fill(2, inputs, labels)
    for row, x, y in zip(batches.rows(2)[0], inputs[0], labels[0], strict=True):
        stored, label = digits.read("train", row, row + 1)
        np.testing.assert_array_equal(x, stored[0] / 16)
        assert y == label[0]
