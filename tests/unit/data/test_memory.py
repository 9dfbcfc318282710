"""How much a rank keeps in memory: block sizes worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest

from lockstep.data.dataset_file import DatasetFile
from lockstep.data.memory import MemoryBudget, kept_dtype
from lockstep.data.shards import Sharding
from lockstep.errors import UserError


@pytest.fixture
def info(digits_file):
    """9 features of a byte, so that a row takes 10 + 32 bytes; 800, 150 and 50 of them."""
    with DatasetFile.open(digits_file) as dataset:
        return replace(
            dataset.info,
            feature_shape=(3, 3),
            num_samples={"train": 800, "validation": 150, "test": 50},
        )


def budget_of(info, num_bytes, dtype="float32"):
    return MemoryBudget(num_bytes / 1e6, info, dtype)


@pytest.mark.parametrize(
    ("stored", "network", "kept"),
    [
        ("u1", "f4", "u1"), ("u2", "f4", "u2"), ("i4", "f4", "f4"), ("f4", "f4", "f4"),
        ("f8", "f4", "f4"), ("f2", "f4", "f4"), ("u1", "f8", "u1"), ("f4", "f8", "f4"),
        ("i8", "f8", "f8"), ("f2", "f8", "f8"),
    ],
)  # fmt: skip
def test_narrow_numbers_are_kept_as_they_are_stored(stored, network, kept):
    assert kept_dtype(stored, network) == np.dtype(kept)
    # What is kept as it is stored can be converted without a loss.
    assert np.can_cast(kept, network)


def test_a_row_takes_its_numbers_and_what_belongs_to_it(info):
    assert budget_of(info, 1).row_bytes == 10 * 1 + 32
    measured = replace(info, dtype=np.dtype(np.float64))
    assert budget_of(measured, 1, "float32").row_bytes == 10 * 4 + 32
    assert budget_of(measured, 1, "float64").row_bytes == 10 * 8 + 32


def test_every_split_has_its_share(info):
    budget = budget_of(info, 20_000)
    shares = {split: budget.share_bytes(split) for split in info.num_samples}
    assert shares == {"train": 16_000, "validation": 3_000, "test": 1_000}


def test_all_splits_fit_or_none(info):
    sharding = Sharding(800, 10, 2)
    for num_bytes, fits in [(42_000, True), (41_999, False)]:
        budget = budget_of(info, num_bytes)
        assert [budget.fits(split, n) for split, n in info.num_samples.items()] == [fits] * 3
        assert (budget.blocks("train", sharding).num_blocks == 1) == fits


@pytest.mark.parametrize(
    ("num_bytes", "steps_per_block"),
    [
        # Of 80 steps. Two blocks of one step take 2 * 10 * 42 = 840 bytes; 19 of them would fit
        # into 16,000, so there are 5 blocks, of 16 steps each.
        (20_000, 16),
        # 8 of them fit into 6,800, so there are 10 blocks.
        (8_500, 8),
        # 7 of them fit into 6,400: 12 blocks of 7 steps, the last one of 3.
        (8_000, 7),
        (1_050, 1),
    ],
)
@pytest.mark.parametrize("virtual_ranks", [1, 3, 10])
def test_two_blocks_of_every_virtual_rank_fit(info, num_bytes, steps_per_block, virtual_ranks):
    sharding = Sharding(800, 10, virtual_ranks)
    budget = budget_of(info, num_bytes)
    budget.check(10)
    assert budget.blocks("train", sharding).steps_per_block == steps_per_block
    assert 2 * 10 * steps_per_block * budget.row_bytes <= budget.share_bytes("train")


def test_a_budget_without_room_for_two_steps_is_refused_and_told_what_it_takes(info):
    info = replace(info, feature_shape=(70, 80))
    sharding = Sharding(800, 10, 2)
    # 2 * 10 * 5633 bytes, which must be 8 tenths of all: 140,825.
    with pytest.raises(UserError) as error:
        MemoryBudget(0.14, info, "float32").check(10)
    told = str(error.value)
    assert told.startswith("memory_budget_mb = 0.14 is too small for the data set")
    assert "global_batch_size = 10 it takes at least 0.141." in told
    budget = MemoryBudget(0.141, info, "float32")
    budget.check(10)
    assert budget.blocks("train", sharding).steps_per_block == 1


def test_what_fits_in_whole_needs_no_room_for_two_blocks(info):
    # One step has all rows.
    with pytest.raises(UserError, match=r"at least 0\.042\."):
        budget_of(info, 41_000).check(1000)
    budget_of(info, 42_000).check(1000)


def test_evaluation_takes_a_block_of_one_step_if_it_must(info):
    assert budget_of(info, 1).blocks("validation", Sharding(150, 100, 2)).steps_per_block == 1
