"""Shards and batches: every row exactly once, in an order that only depends on its address."""

import gc
import shutil
import threading
import tracemalloc

import h5py
import numpy as np
import pytest

from lockstep.data.batches import Batches, Scaling, scaling_of
from lockstep.data.convert import ConvertOptions, convert
from lockstep.data.dataset_file import DatasetFile
from lockstep.data.memory import MemoryBudget
from lockstep.data.shards import Sharding, proportional_share, share
from lockstep.errors import UserError

# Of the digits, 0.18 MB are kept in memory.
WHOLE, BLOCKS = 1, 0.05
LIMIT_S = 60

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


@pytest.fixture(scope="module")
def measured_file(tmp_path_factory):
    """90 training rows of three features in float64, each with a scale and an offset."""
    folder = tmp_path_factory.mktemp("measured")
    generator = np.random.default_rng(3)
    x = generator.standard_normal((100, 3)) * [1, 20, 300] + [1e3, 0, -7]
    np.savez(folder / "m.npz", x=x, y=np.arange(100) % 4)
    options = ConvertOptions(validation=10, test=0, standardize=True)
    convert(str(folder / "m.npz"), folder / "m.h5", options)
    return folder / "m.h5"


def batches_of(dataset, sharding, virtual_ranks, megabytes=WHOLE, dtype="float32"):
    budget = MemoryBudget(megabytes, dataset.info, dtype)
    return Batches(dataset, "train", sharding, virtual_ranks, scaling_of(dataset, dtype), budget)


def buffers_of(batches, dataset, dtype="float32"):
    rows = np.full((*batches.shape, dataset.info.num_features + 1), np.nan, dtype)
    return rows, np.empty(batches.shape, np.int32)


def epoch_rows(dataset, virtual_ranks, world, epoch, megabytes=WHOLE, batch=37, seed=3):
    """The rows of each virtual rank by step, as the ranks of a world see them."""
    sharding = Sharding(dataset.info.num_samples["train"], batch, virtual_ranks)
    seen = []
    for rank in range(world):
        own = range(rank * virtual_ranks // world, (rank + 1) * virtual_ranks // world)
        batches = batches_of(dataset, sharding, own, megabytes)
        batches.shuffle(seed, epoch)
        rows, labels = buffers_of(batches, dataset)
        steps = []
        for step in batches:
            batches.fill(step, rows, labels)
            used = np.ones(batches.shape, bool) if batches.used is None else batches.used
            assert not rows[~used, :-1].any()
            assert (rows[:, :, -1] == 1).all()
            steps.append([r[u].tolist() for r, u in zip(batches.rows(step), used, strict=True)])
        seen += [list(of_one) for of_one in zip(*steps, strict=True)]
    return seen


@pytest.mark.parametrize("megabytes", [WHOLE, BLOCKS])
def test_an_epoch_shows_every_row_once(digits, megabytes):
    by_virtual_rank = epoch_rows(digits, 5, 1, epoch=1, megabytes=megabytes)
    rows = [row for steps in by_virtual_rank for step in steps for row in step]
    assert sorted(rows) == list(range(1437))
    assert rows != sorted(rows)


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("megabytes", [WHOLE, BLOCKS])
def test_the_order_does_not_depend_on_the_ranks(digits, world, megabytes):
    assert epoch_rows(digits, 5, world, 1, megabytes) == epoch_rows(digits, 5, 1, 1, megabytes)


def test_the_shape_of_a_batch_does_not_depend_on_the_ranks(digits):
    # 37 = 7 + 7 + 8 + 7 + 8
    sharding = Sharding(1437, 37, 5)
    shapes = {batches_of(digits, sharding, range(v, v + 1)).shape for v in range(5)}
    assert shapes == {(1, 8)}


@pytest.mark.parametrize("megabytes", [WHOLE, BLOCKS])
def test_epochs_and_seeds_have_orders_of_their_own(digits, megabytes):
    first = epoch_rows(digits, 2, 1, 1, megabytes)
    assert first != epoch_rows(digits, 2, 1, 2, megabytes)
    assert first != epoch_rows(digits, 2, 1, 1, megabytes, seed=4)
    assert first == epoch_rows(digits, 2, 1, 1, megabytes)


def test_a_budget_that_is_too_small_for_all_changes_the_order(digits):
    assert epoch_rows(digits, 2, 1, 1, BLOCKS) != epoch_rows(digits, 2, 1, 1, WHOLE)


@pytest.mark.parametrize("megabytes", [WHOLE, BLOCKS])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_batch_holds_the_scaled_rows_and_their_labels(digits, dtype, megabytes):
    batches = batches_of(digits, Sharding(1437, 8, 2), range(1, 2), megabytes, dtype)
    batches.shuffle(0, 1)
    rows, labels = buffers_of(batches, digits, dtype)
    for step in (0, 2, 100):
        batches.fill(step, rows, labels)
        for row, x, y in zip(batches.rows(step)[0], rows[0], labels[0], strict=True):
            stored, label = digits.read("train", row, row + 1)
            np.testing.assert_array_equal(x[:-1], stored[0] / 16)
            assert y == label[0]


@pytest.mark.parametrize("megabytes", [WHOLE, 0.003])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_feature_has_its_own_scale_in_whatever_form_it_is_kept(
    measured_file, dtype, megabytes
):
    with DatasetFile.open(measured_file) as dataset:
        assert dataset.info.dtype == np.float64
        scaling = scaling_of(dataset, dtype)
        batches = batches_of(dataset, Sharding(90, 10, 2), range(2), megabytes, dtype)
        batches.shuffle(0, 1)
        rows, labels = buffers_of(batches, dataset, dtype)
        batches.fill(3, rows, labels)
        numbers = batches.rows(3)
        stored, y = dataset.read("train", 0, 90)
        expected = (stored[numbers] * scaling.scale).astype(dtype) + scaling.offset
        assert expected.dtype == rows.dtype
        np.testing.assert_array_equal(rows[:, :, :-1], expected)
        np.testing.assert_array_equal(labels, y[numbers])


def test_a_column_more_leaves_the_others_as_they_are():
    scaling = Scaling(np.array([2, 3], np.float32), np.array([1, 0.5], np.float32))
    wider, out = scaling.with_column(), np.empty((1, 3), np.float32)
    assert wider.scale.dtype == wider.offset.dtype == np.float32
    wider.apply(np.array([[10, 20, 30]], np.float32), out)
    assert out[0, :2].tolist() == [21, 60.5]


@pytest.mark.parametrize(
    ("name", "global_batch_size"),
    # Kept as they are stored, scaled once, and with padding in every step.
    [("digits_file", 40), ("measured_file", 10), ("digits_file", 39)],
)
def test_filling_a_batch_needs_no_memory(request, name, global_batch_size):
    with DatasetFile.open(request.getfixturevalue(name)) as dataset:
        num_rows = dataset.info.num_samples["train"]
        batches = batches_of(dataset, Sharding(num_rows, global_batch_size, 2), range(2))
        batches.shuffle(0, 1)
        rows, labels = buffers_of(batches, dataset)
        batches.fill(0, rows, labels)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for step in batches:
                batches.fill(step, rows, labels)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak - before < 1000


class Reads:
    """Watches the reads of a data set; those in the background may have to wait, or fail."""

    def __init__(self, monkeypatch):
        self.num_rows = 0
        self.begun = threading.Semaphore(0)
        self.permits = threading.Semaphore(10**6)
        self.error = None
        original = DatasetFile.read

        def read(dataset, split, start, stop, out=None):
            if threading.current_thread() is not threading.main_thread():
                self.begun.release()
                assert self.permits.acquire(timeout=LIMIT_S)
                if self.error:
                    raise self.error
            self.num_rows += stop - start
            return original(dataset, split, start, stop, out)

        monkeypatch.setattr(DatasetFile, "read", read)


@pytest.fixture
def reads(monkeypatch):
    reads = Reads(monkeypatch)
    yield reads
    reads.permits.release(10**6)  # so that no thread outlives its test


def steps_per_block(dataset, sharding):
    return MemoryBudget(BLOCKS, dataset.info, "float32").blocks("train", sharding).steps_per_block


def test_the_next_block_is_read_while_this_one_is_used(digits, reads):
    sharding = Sharding(1437, 32, 1)
    batches = batches_of(digits, sharding, range(1), BLOCKS)
    batches.shuffle(0, 1)
    rows, labels = buffers_of(batches, digits)
    reads.permits = threading.Semaphore(1)
    num_steps = steps_per_block(digits, sharding)
    for step in range(num_steps):
        batches.fill(step, rows, labels)
    # All steps of the first block were there without the second, which is waited for.
    assert reads.begun.acquire(timeout=LIMIT_S)
    assert reads.begun.acquire(timeout=LIMIT_S)
    assert reads.num_rows == num_steps * 32
    reads.permits.release(10**6)
    batches.fill(num_steps, rows, labels)


def test_rows_that_fit_are_read_once(digits, reads):
    # One of four virtual ranks fits, and still takes its rows in blocks.
    sharding = Sharding(1437, 32, 4)
    budget = MemoryBudget(BLOCKS, digits.info, "float32")
    assert budget.blocks("train", sharding).num_blocks > 1
    batches = batches_of(digits, sharding, range(1, 2), BLOCKS)
    assert reads.num_rows == sharding.shard_sizes[1]
    rows, labels = buffers_of(batches, digits)
    for epoch in (1, 2):
        batches.shuffle(0, epoch)
        for step in batches:
            batches.fill(step, rows, labels)
    assert reads.num_rows == sharding.shard_sizes[1]


def test_rows_that_do_not_fit_are_read_once_in_every_epoch(digits, reads):
    batches = batches_of(digits, Sharding(1437, 32, 4), range(4), BLOCKS)
    assert reads.num_rows == 0
    rows, labels = buffers_of(batches, digits)
    for epoch in (1, 2):
        batches.shuffle(0, epoch)
        for step in batches:
            batches.fill(step, rows, labels)
        assert reads.num_rows == epoch * 1437


def test_an_epoch_may_begin_at_any_step(digits):
    whole = epoch_rows(digits, 3, 1, 1, BLOCKS)
    batches = batches_of(digits, Sharding(1437, 37, 3), range(3), BLOCKS)
    rows, labels = buffers_of(batches, digits)
    for first in range(len(batches)):
        # What was to come of the epoch before is of no use.
        batches.shuffle(3, 2)
        batches.fill(0, rows, labels)
        batches.shuffle(3, 1)
        for step in list(batches)[first:][:3]:
            batches.fill(step, rows, labels)
            used = np.ones(batches.shape, bool) if batches.used is None else batches.used
            seen = [r[u].tolist() for r, u in zip(batches.rows(step), used, strict=True)]
            assert seen == [of_one[step] for of_one in whole]
            stored, y = digits.read("train", 0, 1437)
            numbers = batches.rows(step)[used]
            np.testing.assert_array_equal(rows[used][:, :-1], stored[numbers] / np.float32(16))
            np.testing.assert_array_equal(labels[used], y[numbers])


def test_what_reading_fails_with_is_raised_where_the_rows_are_needed(digits, reads):
    batches = batches_of(digits, Sharding(1437, 32, 4), range(4), BLOCKS)
    batches.shuffle(0, 1)
    rows, labels = buffers_of(batches, digits)
    # A read for each virtual rank.
    reads.permits = threading.Semaphore(4)
    batches.fill(0, rows, labels)
    reads.error = UserError("d.h5 is damaged")
    reads.permits.release(10**6)
    num_steps = steps_per_block(digits, batches.sharding)
    for step in range(num_steps):
        batches.fill(step, rows, labels)
    for _ in range(2):
        with pytest.raises(UserError) as error:
            batches.fill(num_steps, rows, labels)
        assert error.value is reads.error


def readers():
    return [t for t in threading.enumerate() if t.name.startswith("block-reader")]


def test_the_background_thread_ends_with_its_batches(digits):
    batches = batches_of(digits, Sharding(1437, 32, 4), range(4), BLOCKS)
    batches.shuffle(0, 1)
    batches.fill(0, *buffers_of(batches, digits))
    threads = readers()
    assert threads
    del batches
    gc.collect()
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()


@pytest.mark.parametrize(("stored", "value"), [("f4", np.nan), ("f4", -np.inf), ("f8", 1e300)])
@pytest.mark.parametrize("megabytes", [WHOLE, BLOCKS])
def test_a_value_that_is_not_finite_is_found_when_its_row_is_read(
    digits_file, tmp_path, stored, value, megabytes
):
    path = tmp_path / "wrong.h5"
    shutil.copy(digits_file, path)
    with h5py.File(path, "r+") as file:
        for split in ("train", "validation", "test"):
            x = file[f"{split}/x"][()].astype(stored)
            del file[f"{split}/x"]
            file[f"{split}/x"] = x
        file["train/x"][1400, 3, 4] = value
    message = r"wrong.h5: train/x has values that aren't finite.* first in row 1400"

    def take_all(virtual_ranks):
        batches = batches_of(dataset, Sharding(1437, 32, 4), virtual_ranks, megabytes)
        rows, labels = buffers_of(batches, dataset)
        batches.in_stored_order()
        for step in batches:
            batches.fill(step, rows, labels)

    with DatasetFile.open(path) as dataset:
        take_all(range(3))
        with pytest.raises(UserError, match=message):
            take_all(range(3, 4))
