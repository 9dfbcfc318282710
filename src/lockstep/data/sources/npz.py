"""NumPy's `.npz` files, with one pair of arrays or with ready splits."""

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data.sources.base import (
    ArrayRows,
    Part,
    Request,
    Source,
    SourceFile,
    compact,
    encode_labels,
    most_unpacked,
    reading,
    stem,
)
from lockstep.errors import UserError

_WHOLE = (("x", "y"), ("X", "y"), ("data", "target"), ("images", "labels"))
_TRAIN = ("x_train", "y_train")
_TEST = ("x_test", "y_test")
_VALIDATION = (("x_val", "y_val"), ("x_validation", "y_validation"))
_WHITE = 255


def load(request: Request) -> Source:
    """Read the arrays.

    Parameters
    ----------
    request : Request
        Its path names the file.

    Returns
    -------
    Source
        With the part "all", or "train", "test" and perhaps "validation". uint8 arrays of
        (height, width) or (height, width, 3) count as images, and those of 28x28 as digits.

    Raises
    ------
    UserError
        When the file is damaged, has no arrays of the usual names, or arrays that don't fit
        together.
    """
    path = request.path
    pairs = _read(path)
    samples = {part: _squeezed(x) for part, (x, _) in pairs.items()}
    shapes = {x.shape[1:] for x in samples.values()}
    if len(shapes) != 1:
        raise UserError(f"{path}: its samples have different shapes: {sorted(shapes)}.")
    class_names, indices = encode_labels({part: y for part, (_, y) in pairs.items()}, path)
    for part, x in samples.items():
        _check_rows(x, len(indices[part]), part, path)
    samples = _one_type({part: compact(x, f"x ({part})", path) for part, x in samples.items()})
    first = next(iter(samples.values()))
    image_form = _image_form(first)
    return Source(
        name=stem(path),
        files=[SourceFile.of(path)],
        class_names=class_names,
        feature_shape=first.shape[1:],
        dtype=first.dtype,
        parts={part: Part(ArrayRows(x), indices[part]) for part, x in samples.items()},
        scale=1.0 if image_form == "none" else 1 / _WHITE,
        image_form=image_form,
    )


def _read(path: Path) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    with reading(path), path.open("rb") as file:
        try:
            # NumPy warns of arrays that Python 2 has saved, which are read all the same.
            with warnings.catch_warnings(action="ignore"):
                arrays = _open_archive(file, path)
                pairs = _names(arrays, path)
                return {part: (_array(arrays, x), _array(arrays, y)) for part, (x, y) in pairs}
        except (UserError, OSError):
            raise
        except Exception as error:
            # A damaged archive can raise nearly anything.
            raise UserError(f"{path} is no .npz file of plain arrays: {error}.") from error


def _open_archive(file: IO[bytes], path: Path) -> Mapping[str, object]:
    """Open an archive; refuse what NumPy doesn't write, and what unpacks to more than data do."""
    arrays = np.load(file, allow_pickle=False)
    if not isinstance(arrays, np.lib.npyio.NpzFile):
        raise UserError(f"{path} holds a single array: give an .npz file.")
    for member in zipfile.ZipFile(file).infolist():
        if member.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise UserError(f"{path}: {member.filename} is compressed in an unknown way.")
        if member.file_size > most_unpacked(member.compress_size):
            raise UserError(
                f"{path}: {member.filename} unpacks from {member.compress_size} to "
                f"{member.file_size} bytes, as no usual data do. If you trust it, save it anew "
                "with np.savez."
            )
    return arrays


def _array(arrays: Mapping[str, object], name: str) -> NDArray[Any]:
    array = arrays[name]
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} is no array")
    return array


def _names(arrays: Mapping[str, object], path: Path) -> list[tuple[str, tuple[str, str]]]:
    """Find out which arrays are which: (part, (name of x, name of y))."""

    def present(pair: tuple[str, str]) -> bool:
        return all(name in arrays for name in pair)

    if present(_TRAIN) and present(_TEST):
        validation = [("validation", pair) for pair in _VALIDATION if present(pair)]
        return [("train", _TRAIN), *validation[:1], ("test", _TEST)]
    for pair in _WHOLE:
        if present(pair):
            return [("all", pair)]
    wanted = ", or ".join(" and ".join(pair) for pair in _WHOLE)
    raise UserError(
        f"{path} holds {', '.join(arrays) or 'no arrays'}. It should hold {wanted}; or "
        f"{', '.join(_TRAIN + _TEST)} and perhaps {' and '.join(_VALIDATION[0])}."
    )


def _squeezed(x: NDArray[Any]) -> NDArray[Any]:
    """Drop the last axis of gray images, (rows, height, width, 1)."""
    return x[..., 0] if x.ndim == 4 and x.shape[-1] == 1 else x


def _check_rows(x: NDArray[Any], num_labels: int, part: str, path: Path) -> None:
    if x.ndim < 2 or x.size == 0:
        raise UserError(
            f"{path}: x ({part}) has shape {x.shape}; it should be (rows, features...)."
        )
    if len(x) != num_labels:
        raise UserError(
            f"{path}: x ({part}) has {len(x)} rows, but y has {num_labels}: they should be equal."
        )


def _one_type(samples: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    dtype = np.result_type(*samples.values())
    return {part: x.astype(dtype, copy=False) for part, x in samples.items()}


def _image_form(x: NDArray[Any]) -> str:
    if x.dtype != np.uint8 or x.ndim < 3 or x.shape[3:] not in {(), (3,)}:
        return "none"
    return "digit" if x.shape[1:] == (28, 28) else "image"
