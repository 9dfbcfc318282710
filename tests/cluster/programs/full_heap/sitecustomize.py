"""Leaves memory behind that looks like noise, as imports and decompression do."""

import random

noise = random.Random(0)
# Every second one is freed again, so that what is allocated later lies between them.
blocks = [noise.randbytes(size) for size in range(600, 20_000, 16) for _ in range(3)][::2]
