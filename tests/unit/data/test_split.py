import hashlib

import numpy as np
import pytest

from lockstep.data.split import num_rows, shuffled, stratified
from lockstep.errors import UserError
from lockstep.streams import Purpose

NAMES = ("a", "b", "c")


def labels_of(*counts):
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    return np.random.default_rng(1).permutation(labels)


def counts_of(labels, numbers):
    return np.bincount(labels[numbers], minlength=3).tolist()


def test_each_class_has_its_share():
    labels = labels_of(100, 60, 40)
    splits = stratified(labels, NAMES, 20, 40, seed=3)
    assert counts_of(labels, splits["test"]) == [20, 12, 8]
    assert counts_of(labels, splits["validation"]) == [10, 6, 4]
    assert counts_of(labels, splits["train"]) == [70, 42, 28]


def test_every_row_is_in_one_split_in_ascending_order():
    splits = stratified(labels_of(33, 21, 8), NAMES, 13, 7, seed=3)
    merged = np.concatenate(list(splits.values()))
    np.testing.assert_array_equal(np.sort(merged), np.arange(62))
    for numbers in splits.values():
        assert (np.diff(numbers) > 0).all()


@pytest.mark.parametrize("validation", [0, 1, 5, 17, 40])
@pytest.mark.parametrize("test", [0, 1, 3, 19])
def test_sizes_are_exact_and_shares_within_one_row(validation, test):
    labels = labels_of(50, 13, 5)
    splits = stratified(labels, NAMES, validation, test, seed=0)
    assert (len(splits["validation"]), len(splits["test"])) == (validation, test)
    assert min(counts_of(labels, splits["train"])) >= 1
    shares = np.array([50, 13, 5]) * test / 68
    assert (abs(np.array(counts_of(labels, splits["test"])) - shares) < 1).all()


def test_rounding_goes_to_the_largest_remainder():
    labels = labels_of(10, 10, 4)
    # 5 * 10/24 = 2.08, twice, and 5 * 4/24 = 0.83.
    splits = stratified(labels, NAMES, 0, 5, seed=0)
    assert counts_of(labels, splits["test"]) == [2, 2, 1]


def test_every_class_stays_in_train_even_if_nearly_all_rows_are_held_out():
    labels = labels_of(10, 3, 3)
    splits = stratified(labels, NAMES, 6, 7, seed=0)
    assert counts_of(labels, splits["train"]) == [1, 1, 1]


def test_rounding_does_not_take_the_last_row_of_a_class():
    labels = labels_of(20, 2, 2)
    splits = stratified(labels, NAMES, 0, 21, seed=0)
    assert counts_of(labels, splits["train"]) == [1, 1, 1]


def test_the_seed_decides_alone():
    labels = labels_of(50, 30, 20)
    first, again, other = (stratified(labels, NAMES, 10, 10, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first["test"], again["test"])
    assert first["test"].tolist() != other["test"].tolist()


def test_the_rows_are_those_of_every_machine_and_version():
    order = shuffled(1000, 42, Purpose.SHUFFLE).astype("<i8")
    assert sorted(order) == list(range(1000))
    assert (
        hashlib.sha256(order.tobytes()).hexdigest()
        == "51d12a962a67e4956c0f0e3f27d8c083f9f9646fd36d6b5cad310fcbf551604d"
    )
    test = stratified(np.arange(100, dtype=np.int32) % 3, NAMES, 10, 10, 42)["test"].astype("<i8")
    assert test.tolist() == [1, 3, 6, 17, 22, 32, 40, 45, 62, 99]


def test_purposes_give_different_orders():
    split, shuffle = (shuffled(100, 0, purpose) for purpose in (Purpose.SPLIT, Purpose.SHUFFLE))
    assert split.tolist() != shuffle.tolist()


def test_a_class_with_too_few_rows_is_named():
    with pytest.raises(UserError, match=r"Class 'b' has too few rows to be split: 2, .* 3 splits"):
        stratified(labels_of(10, 2, 5), NAMES, 3, 3, seed=0)
    stratified(labels_of(10, 2, 5), NAMES, 3, 0, seed=0)


def test_too_many_rows_are_refused():
    with pytest.raises(UserError, match=r"10 rows for validation and 8 for test .* 17 at most"):
        stratified(labels_of(10, 5, 5), NAMES, 10, 8, seed=0)


@pytest.mark.parametrize(
    ("wanted", "rows"), [(None, 10), (0.25, 25), (0, 0), (0.0, 0), (1, 1), (30.0, 30), (0.996, 100)]
)
def test_sizes(wanted, rows):
    assert num_rows(wanted, 100, "test") == rows


@pytest.mark.parametrize("wanted", [-1, -0.1, 1.5, float("nan")])
def test_what_is_no_size(wanted):
    with pytest.raises(UserError, match=r"--validation .* is no size"):
        num_rows(wanted, 100, "validation")


def test_a_share_of_nothing_is_refused():
    with pytest.raises(UserError, match=r"test would be empty: 0\.1 of 4 rows.*--test 0"):
        num_rows(0.1, 4, "test")
