import numpy as np

from lockstep.data.moments import Moments


def test_blocks_give_what_the_whole_gives():
    x = np.random.default_rng(0).normal(3, 2, (1000, 2, 3)).astype(np.float32)
    moments = Moments((2, 3))
    for start in range(0, 1000, 37):
        moments.add(x[start : start + 37])
    scale, offset = moments.standardization()
    exact = x.astype(np.float64)
    np.testing.assert_allclose(scale, 1 / exact.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(offset, -exact.mean(axis=0) / exact.std(axis=0), rtol=1e-12)


def test_a_large_mean_costs_no_digits():
    x = np.array([[1e9], [1e9 + 1], [1e9 + 2]])
    moments = Moments((1,))
    for row in x:
        moments.add(row[np.newaxis])
    np.testing.assert_allclose(moments.standardization()[0], 1 / x.std(), rtol=1e-9)


def test_a_constant_feature_is_only_shifted():
    moments = Moments((1,))
    moments.add(np.full((5, 1), 7, np.uint8))
    scale, offset = moments.standardization()
    assert (scale[0], offset[0]) == (1, -7)


def test_wide_rows_are_taken_in_pieces():
    x = np.random.default_rng(0).integers(0, 256, (3, 2**19 + 1), dtype=np.uint8)
    moments = Moments(x.shape[1:])
    moments.add(x)
    scale, _ = moments.standardization()
    deviation = x.std(axis=0)
    np.testing.assert_allclose(scale, 1 / np.where(deviation == 0, 1, deviation), rtol=1e-12)
