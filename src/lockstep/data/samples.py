"""Samples to be classified, from files of any kind that has no labels."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lockstep.arrays import Array
from lockstep.data.dataset_file import DatasetFile
from lockstep.errors import UserError

_LARGEST = np.finfo(np.float32).max


@dataclass(frozen=True)
class Form:
    """What the samples of a trained network look like.

    Parameters
    ----------
    feature_shape : tuple of int
        Of one sample.
    image_form : str
        "digit", "image" or "none"; see `DatasetInfo`.
    white : int
        What white is in stored images.
    """

    feature_shape: tuple[int, ...]
    image_form: str
    white: int


@dataclass(frozen=True)
class Samples:
    """Samples of one file.

    Parameters
    ----------
    names : sequence of str
        Where each comes from: the file, and its row, counted from 1, where there are several.
    stored : ndarray (num_samples, num_features)
        As a data set would store them, unscaled.
    """

    names: Sequence[str]
    stored: Array


def read_samples(path: Path, form: Form, split: str) -> Samples:
    """Read the samples of a file.

    Parameters
    ----------
    path : Path
        An image, a `.npy` array of one or more samples, a `.csv` table of features, or a data
        set file.
    form : Form
        What they must be.
    split : str
        The one that is taken of a data set file.

    Raises
    ------
    UserError
        When the file can't be read or its samples are of another form.
    """
    if not path.is_file():
        what = "is no file" if path.exists() else "doesn't exist"
        raise UserError(f"{path} {what}: name images, .npy arrays, .csv tables or .h5 files.")
    name = path.name.lower()
    if name.endswith(".npy"):
        stored = _read_npy(path, form)
    elif name.endswith((".csv", ".csv.gz")):
        stored = _read_csv(path, form)
    elif name.endswith((".h5", ".hdf5")):
        stored = _read_split(path, form, split)
    else:
        from lockstep.data.images import read_image  # noqa: PLC0415 - Pillow, for images only

        image = read_image(path, form.feature_shape, form.image_form, form.white)
        stored = image.reshape(1, -1)
    # Some names of files can't be printed as they are.
    shown = str(path).encode(errors="backslashreplace").decode()
    names = [shown] if len(stored) == 1 else [f"{shown}:{row + 1}" for row in range(len(stored))]
    return Samples(names, stored)


def _read_npy(path: Path, form: Form) -> Array:
    try:
        # Mapped into memory, nothing is allocated for a shape that the file is too small for. NumPy
        # warns of arrays that Python 2 has saved, which are read all the same.
        with warnings.catch_warnings(action="ignore"):
            samples = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, OverflowError, MemoryError, RecursionError) as error:
        raise UserError(f"Can't read {path} as a NumPy array: {error}.") from error
    num_features = prod(form.feature_shape)
    one = samples.shape in {form.feature_shape, (num_features,)}
    many = samples.shape[1:] in {form.feature_shape, (num_features,)}
    if samples.dtype.kind not in "uifb" or not (one or many):
        raise UserError(
            f"{path} holds {samples.dtype} of shape {samples.shape}, but the network was trained "
            f"on samples of shape {form.feature_shape}: give numbers of shape "
            f"(num_samples, {', '.join(map(str, form.feature_shape))})."
        )
    return _checked(np.array(samples).reshape(-1, num_features), form, path)


def _read_csv(path: Path, form: Form) -> Array:
    # A training reads none, and is to start quickly.
    from lockstep.data.sources.table import detect_delimiter, open_records  # noqa: PLC0415

    num_features = prod(form.feature_shape)
    rows: list[NDArray[np.float64]] = []
    with open_records(path, detect_delimiter(path)) as records:
        for number, (line, cells) in enumerate(records):
            values = _numbers(cells)
            if values is None and number == 0:
                continue  # the header
            if values is None or len(values) != num_features:
                raise UserError(
                    f"{path}, line {line}: {len(cells)} cells, but the network takes "
                    f"{num_features} numbers, and no label."
                )
            rows.append(values)
    if not rows:
        raise UserError(f"{path} has no rows.")
    return _checked(np.array(rows), form, path)


def _numbers(cells: list[str]) -> NDArray[np.float64] | None:
    try:
        return np.array(cells, dtype=np.float64)
    except ValueError:
        return None


def _read_split(path: Path, form: Form, split: str) -> Array:
    with DatasetFile.open(path) as dataset:
        if dataset.info.feature_shape != form.feature_shape:
            raise UserError(
                f"{path} has samples of shape {dataset.info.feature_shape}, but the network was "
                f"trained on {form.feature_shape}."
            )
        stored, _ = dataset.read(split, 0, dataset.info.num_samples[split])
    if not len(stored):
        raise UserError(f"{path} has no rows in its {split} split.")
    return _checked(stored, form, path)


def _checked(samples: Array, form: Form, path: Path) -> Array:
    if not len(samples):
        raise UserError(f"{path} has no rows.")
    # In this sense so that NaN is refused as well.
    good = (np.abs(samples) <= _LARGEST).all(axis=1)
    if not good.all():
        raise UserError(
            f"{path}: row {int(good.argmin()) + 1} has NaN, infinite or huge values. Fill or drop "
            "them."
        )
    # Images that somebody has scaled already would all look black, and be classified in silence.
    if form.white > 1 and samples.max() <= 1 and (samples % 1).any():
        raise UserError(
            f"{path} has pixels from 0 to 1, but the network was trained on images where white is "
            f"{form.white}: multiply them by {form.white}."
        )
    return samples
