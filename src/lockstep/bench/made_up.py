"""A data set of random numbers, for measuring: how long a step takes doesn't depend on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from lockstep.data.dataset_file import LABEL_DTYPE, SPLITS, DatasetFile
from lockstep.data.dataset_writer import Header, create_dataset_file

# Those of MNIST; so many rows don't fit into a core's own cache, as real ones wouldn't.
_NUM_FEATURES, _NUM_CLASSES, _NUM_ROWS = 784, 10, 8192
_WHITE = 255


@contextmanager
def made_up_dataset() -> Iterator[DatasetFile]:
    """Make a data set of training rows in a temporary folder, and open it.

    Each process makes its own, for ranks on other machines would not find that of the root.

    Yields
    ------
    DatasetFile
        8,192 rows of 784 bytes in 10 classes; gone after the block.
    """
    with TemporaryDirectory(prefix="lockstep-bench-") as folder:
        path = Path(folder, "made-up.h5")
        _write(path)
        with DatasetFile.open(path) as dataset:
            yield dataset


def _write(path: Path) -> None:
    generator = np.random.default_rng(0)
    x = generator.integers(0, _WHITE + 1, (_NUM_ROWS, _NUM_FEATURES), np.uint8)
    y = generator.integers(0, _NUM_CLASSES, _NUM_ROWS, LABEL_DTYPE)
    header = Header(
        name="made-up",
        class_names=tuple(map(str, range(_NUM_CLASSES))),
        feature_shape=(_NUM_FEATURES,),
        dtype=x.dtype,
        image_form="none",
        white=1,
        source="random numbers",
        source_files=(),
        source_sha256=(),
        shuffle_seed=0,
    )
    with create_dataset_file(path, header) as writer:
        for split in SPLITS:
            num_rows = _NUM_ROWS if split == "train" else 0
            writer.write_split(split, [x[:num_rows]], y[:num_rows])
        writer.finish(1 / _WHITE, 0.0)
