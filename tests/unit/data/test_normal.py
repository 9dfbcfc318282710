"""Normal numbers from raw bits."""

import numpy as np
import pytest
from scipy.stats import kstest, norm

from lockstep.data.normal import NormalNumbers


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_they_are_normal(dtype):
    numbers = np.empty((1001, 199), dtype)
    NormalNumbers(dtype).fill(np.random.default_rng(0), numbers)
    assert kstest(numbers.ravel(), "norm").pvalue > 0.01
    assert numbers.mean() == pytest.approx(0, abs=0.01)
    assert numbers.std() == pytest.approx(1, abs=0.01)
    for lag in range(1, 6):
        assert abs(np.corrcoef(numbers.ravel()[lag:], numbers.ravel()[:-lag])[0, 1]) < 0.01


def test_they_are_quantiles_chosen_by_sixteen_bits_each():
    class Bits:
        def random_raw(self, num_words):
            return np.array([0xFFFF_8000_7FFF_0000, 0x1234] * num_words, np.uint64)[:num_words]

    class Random:
        bit_generator = Bits()

    numbers = np.empty(5)
    NormalNumbers("float64").fill(Random(), numbers)
    draws = np.array([0, 0x7FFF, 0x8000, 0xFFFF, 0x1234])
    np.testing.assert_allclose(numbers, norm.ppf((draws + 0.5) / 2**16), rtol=1e-9)
