"""A data set of random numbers, for measuring: how long a step takes doesn't depend on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from lockstep.arrays import Array
from lockstep.data.dataset_file import LABEL_DTYPE, SPLITS, DatasetFile
from lockstep.data.dataset_writer import Header, create_dataset_file

# Those of MNIST; so many rows don't fit into a core's own cache, as real ones wouldn't.
NUM_FEATURES, NUM_CLASSES, NUM_ROWS = 784, 10, 8192
_IMAGE_SHAPE = (28, 28)
_WHITE = 255


@contextmanager
def made_up_dataset(num_rows: int = NUM_ROWS) -> Iterator[DatasetFile]:
    """Make a data set of training rows in a temporary folder, and open it.

    Each process makes its own, for ranks on other machines would not find that of the root.

    Parameters
    ----------
    num_rows : int
        How many.

    Yields
    ------
    DatasetFile
        Rows of 784 bytes in 10 classes; gone after the block.
    """
    with _temporary(num_rows, (NUM_FEATURES,), "none") as dataset:
        yield dataset


@contextmanager
def made_up_images() -> Iterator[DatasetFile]:
    """Make a data set as `made_up_dataset` does, but of gray images of 28 x 28 pixels."""
    with _temporary(NUM_ROWS, _IMAGE_SHAPE, "image") as dataset:
        yield dataset


@contextmanager
def _temporary(
    num_rows: int, feature_shape: tuple[int, ...], image_form: str
) -> Iterator[DatasetFile]:
    with TemporaryDirectory(prefix="lockstep-bench-") as folder:
        path = Path(folder, "made-up.h5")
        write_made_up(path, num_rows, feature_shape, image_form)
        with DatasetFile.open(path) as dataset:
            yield dataset


def write_made_up(
    path: Path,
    num_rows: int,
    feature_shape: tuple[int, ...] = (NUM_FEATURES,),
    image_form: str = "none",
) -> None:
    """Write a data set of so many training rows, some megabytes at a time."""
    generator = np.random.default_rng(0)
    y = generator.integers(0, NUM_CLASSES, num_rows, LABEL_DTYPE)
    header = Header(
        name="made-up",
        class_names=tuple(map(str, range(NUM_CLASSES))),
        feature_shape=feature_shape,
        dtype=np.dtype(np.uint8),
        image_form=image_form,
        white=_WHITE,
        source="random numbers",
        source_files=(),
        source_sha256=(),
        shuffle_seed=0,
    )

    def blocks() -> Iterator[Array]:
        for start in range(0, num_rows, header.block_rows):
            shape = min(header.block_rows, num_rows - start), *feature_shape
            yield generator.integers(0, _WHITE + 1, shape, np.uint8)

    with create_dataset_file(path, header) as writer:
        for split in SPLITS:
            is_train = split == "train"
            writer.write_split(split, blocks() if is_train else (), y if is_train else y[:0])
        writer.finish(1 / _WHITE, 0.0)
