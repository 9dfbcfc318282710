"""Blocks: every row in one of them, and an order that only depends on its address."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep.data.blocks import Blocks, ShuffledOrder, StoredOrder
from lockstep.data.shards import Sharding
from lockstep.streams import Purpose, philox


class GivenOrder(StoredOrder):
    def __init__(self, *numbers):
        self.numbers = numbers

    def of_blocks(self, virtual_rank, num_blocks):
        assert num_blocks == len(self.numbers)
        return np.array(self.numbers)


@pytest.mark.parametrize(
    ("order", "first_shard"),
    [
        ((0, 1, 2), [range(4), range(4, 8), range(8, 10)]),
        ((2, 0, 1), [range(6, 10), range(4), range(4, 6)]),
        ((1, 2, 0), [range(2, 6), range(6, 10), range(2)]),
    ],
)
def test_the_last_block_of_an_epoch_is_the_short_one(order, first_shard):
    # 20 rows in 5 steps of 4: two shards of 10 rows, 2 in a step, and blocks of 2 steps.
    blocks = Blocks(Sharding(20, 4, 2), 2)
    assert blocks.num_blocks == 3
    assert [blocks.steps(place) for place in range(3)] == [range(2), range(2, 4), range(4, 5)]
    assert blocks.rows(0, GivenOrder(*order)) == first_shard
    second_shard = [range(r.start + 10, r.stop + 10) for r in first_shard]
    assert blocks.rows(1, GivenOrder(*order)) == second_shard


def test_uneven_shards_have_blocks_of_as_many_steps():
    # 19 rows in 4 steps of 5: local batches of 1, 2 and 2; the last step has 4, in 0, 2 and 2.
    sharding = Sharding(19, 5, 3)
    assert sharding.shards == [range(3), range(3, 11), range(11, 19)]
    blocks = Blocks(sharding, 3)
    assert blocks.rows(0, StoredOrder()) == [range(3), range(3, 3)]
    assert blocks.rows(1, StoredOrder()) == [range(3, 9), range(9, 11)]
    assert blocks.rows(1, GivenOrder(1, 0)) == [range(5, 11), range(3, 5)]


@given(
    num_rows=st.integers(1, 300),
    global_batch_size=st.integers(1, 60),
    virtual_ranks=st.integers(1, 8),
    steps_per_block=st.integers(1, 40),
    epoch=st.integers(1, 3),
)
def test_every_row_is_in_one_block(
    num_rows, global_batch_size, virtual_ranks, steps_per_block, epoch
):
    virtual_ranks = min(virtual_ranks, global_batch_size)
    sharding = Sharding(num_rows, global_batch_size, virtual_ranks)
    blocks = Blocks(sharding, steps_per_block)
    for virtual_rank, local in enumerate(sharding.local_batch_sizes):
        by_place = blocks.rows(virtual_rank, ShuffledOrder(5, epoch))
        assert len(by_place) == blocks.num_blocks
        rows = sorted(row for block in by_place for row in block)
        assert rows == list(sharding.shards[virtual_rank])
        *whole, last = by_place
        assert all(len(block) == steps_per_block * local for block in whole)
        num_steps = len(blocks.steps(blocks.num_blocks - 1))
        assert (num_steps - 1) * local <= len(last) <= num_steps * local


def test_all_in_one_block_is_the_order_without_blocks():
    keys = philox(7, Purpose.SAMPLE_ORDER, 3, 2).random_raw(50)
    order = ShuffledOrder(7, 3)
    np.testing.assert_array_equal(order.of_rows(2, 0, 50), np.argsort(keys, kind="stable"))
    assert order.of_blocks(2, 1).tolist() == [0]


def test_each_block_and_virtual_rank_has_an_order_of_its_own():
    order = ShuffledOrder(7, 3)
    orders = [order.of_rows(v, place, 50).tolist() for v in (0, 1) for place in (0, 1)]
    orders += [ShuffledOrder(7, 4).of_rows(0, 0, 50).tolist()]
    assert len(set(map(tuple, orders))) == 5
    assert all(sorted(rows) == list(range(50)) for rows in orders)
    assert order.of_blocks(0, 50).tolist() != order.of_blocks(1, 50).tolist()
    assert sorted(order.of_blocks(0, 50)) == list(range(50))
