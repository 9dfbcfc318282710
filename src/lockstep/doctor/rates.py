"""A program that measures the rate of matrix products with the BLAS kernels that are loaded.

Kernels are chosen when NumPy is loaded, so each choice needs a process of its own:

    python -m lockstep.doctor.rates [KERNEL]

prints a JSON object with the name of the kernels, and the best rate by shape in GFLOP/s, unless
other kernels than KERNEL are loaded.
"""

import json
import sys
from time import perf_counter

import numpy as np

from lockstep.train import fingerprint

# Rows, inner length, columns: products of small, middling and large layers.
SHAPES = ((10, 784, 64), (128, 784, 128), (256, 1024, 1024))
_NUM_BLOCKS, _BLOCK_S = 6, 0.01


def main() -> None:
    """Measure and print."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    kernel = fingerprint.blas()["kernel"]
    rates = {}
    if not wanted or wanted.lower() == kernel.lower():
        rates = {"x".join(map(str, shape)): _rate(*shape) for shape in SHAPES}
    print(json.dumps({"kernel": kernel, "rates": rates}))  # noqa: T201 - for the process above


def _rate(num_rows: int, inner: int, num_columns: int) -> float:
    """Return the best rate of a few blocks of products, in GFLOP/s."""
    generator = np.random.default_rng(0)
    a = generator.standard_normal((num_rows, inner), np.float32)
    b = generator.standard_normal((inner, num_columns), np.float32)
    c = np.empty((num_rows, num_columns), np.float32)

    def seconds(num_products: int) -> float:
        start_s = perf_counter()
        for _ in range(num_products):
            np.matmul(a, b, out=c)
        return (perf_counter() - start_s) / num_products

    seconds(1)
    num_products = max(1, int(_BLOCK_S / seconds(3)))
    best_s = min(seconds(num_products) for _ in range(_NUM_BLOCKS))
    return 2e-9 * num_rows * inner * num_columns / best_s


if __name__ == "__main__":
    main()
