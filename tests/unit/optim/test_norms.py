import math

import numpy as np
import pytest

from lockstep.optim import norms
from lockstep.optim.norms import limit_column_norms, norm


def test_a_norm():
    assert norm(np.array([3.0, -4.0])) == 5.0
    assert norm(np.zeros(3)) == 0.0


def test_a_norm_of_many_numbers_is_exact_and_does_not_overflow():
    values = np.random.default_rng(0).standard_normal(100_001).astype("f4")
    exact = math.sqrt(math.fsum(float(value) ** 2 for value in values))
    assert norm(values) == pytest.approx(exact, rel=1e-14)
    assert norm(np.full(100_000, 1e30, "f4")) == pytest.approx(1e30 * math.sqrt(1e5), rel=1e-7)


def test_columns_are_scaled_down_to_the_limit():
    # The norms are 5, 1 and 0.
    matrix = np.array([[3.0, 0.6, 0.0], [-4.0, 0.8, 0.0]], "f4")
    limit_column_norms(matrix, 2.5)
    expected = np.array([[1.5, 0.6, 0.0], [-2.0, 0.8, 0.0]], "f4")
    assert matrix.tobytes() == expected.tobytes()


@pytest.mark.parametrize("block_size", [1, 10, 35, 32_768])
def test_columns_of_many_rows_are_added_up_in_blocks(monkeypatch, block_size):
    monkeypatch.setattr(norms, "NORM_BLOCK_SIZE", block_size)
    matrix = np.random.default_rng(0).standard_normal((29, 5))
    before = matrix.copy()
    lengths = np.linalg.norm(before, axis=0)
    limit = float(np.median(lengths))
    limit_column_norms(matrix, limit)
    np.testing.assert_allclose(matrix, before * np.minimum(1, limit / lengths), rtol=1e-14)
    assert np.count_nonzero((matrix != before).any(axis=0)) == 2
