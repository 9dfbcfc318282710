"""`mnist.pkl.gz`: MNIST as three pickled pairs of arrays, as early tutorials passed it around.

Pickles can run any code, so this reader builds nothing but arrays of numbers: whatever else a
pickle names is refused, and even NumPy's own unpickling isn't called.
"""

import pickle
from collections.abc import Callable
from math import isqrt, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data.sources.base import (
    ArrayRows,
    Part,
    Request,
    Source,
    SourceFile,
    encode_labels,
    open_unzipped,
    stem,
)
from lockstep.errors import UserError

_PARTS = ("train", "validation", "test")
_NUMBERS = {"u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"}
_LEVELS = 256
_WHITE = 255


def load(request: Request) -> Source:
    """Read the three pairs of images and labels.

    Parameters
    ----------
    request : Request
        Its path names the file, compressed or not.

    Returns
    -------
    Source
        uint8 images, the original bytes, in three parts: from the same pixels, the same source
        as a folder of IDX files gives.

    Raises
    ------
    UserError
        When the file is damaged, holds anything but numbers, or pixels that were no bytes.
    """
    path = request.path
    pairs = dict(zip(_PARTS, _read(path), strict=True))
    images = {part: _images(x, part, path) for part, (x, _) in pairs.items()}
    class_names, indices = encode_labels({part: y for part, (_, y) in pairs.items()}, path)
    for part in _PARTS:
        if len(images[part]) != len(indices[part]) or not len(indices[part]):
            raise UserError(
                f"{path}: the {part} part has {len(images[part])} images and "
                f"{len(indices[part])} labels; it should have as many of both."
            )
    shapes = {x.shape[1:] for x in images.values()}
    if len(shapes) != 1:
        raise UserError(f"{path}: its three parts have images of different sizes.")
    return Source(
        name=stem(path),
        files=[SourceFile.of(path)],
        class_names=class_names,
        feature_shape=shapes.pop(),
        dtype=np.dtype(np.uint8),
        parts={part: Part(ArrayRows(images[part]), indices[part]) for part in _PARTS},
        scale=1 / _WHITE,
        image_form="digit",
    )


def _read(path: Path) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    with open_unzipped(path) as file:
        try:
            content = _NumbersOnly(file, encoding="latin1").load()
        except UserError:
            raise
        except pickle.UnpicklingError as error:
            raise UserError(f"{path} is refused: {error}.") from error
        except OSError:
            raise
        except Exception as error:
            # A damaged pickle can raise nearly anything.
            raise UserError(f"{path} is no pickle, or a damaged one: {error!r}.") from error
    if not isinstance(content, list | tuple) or len(content) != len(_PARTS):
        raise _wrong_structure(path)
    return [_pair(item, path) for item in content]


def _pair(item: object, path: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    if not isinstance(item, list | tuple) or len(item) != 2:
        raise _wrong_structure(path)
    x, y = item
    if not isinstance(x, _Array) or not isinstance(y, _Array):
        raise _wrong_structure(path)
    return x.array, y.array


def _wrong_structure(path: Path) -> UserError:
    return UserError(
        f"{path} should hold three pairs (images, labels) of arrays: training, validation, test."
    )


def _images(x: NDArray[Any], part: str, path: Path) -> NDArray[np.uint8]:
    """Return the bytes that pixels were made from by dividing them by 256."""
    side = isqrt(x.shape[1]) if x.ndim == 2 else 0
    if side == 0 or side**2 != x.shape[1]:
        raise UserError(
            f"{path}: the {part} images have shape {x.shape}; each should be a row of the pixels "
            "of a square image."
        )
    if x.dtype.kind != "f":
        raise UserError(f"{path}: the {part} images have type {x.dtype}, not float32 or float64.")
    with np.errstate(over="ignore", invalid="ignore"):
        levels = x * _LEVELS
        # In this sense so that NaN is refused as well.
        whole = (levels >= 0) & (levels < _LEVELS) & (levels % 1 == 0)
    if not whole.all():
        raise UserError(
            f"{path}: the {part} images have pixels that are no multiples of 1/256 from 0 to "
            f"255/256, first in row {int((~whole).any(axis=1).argmax())} (counted from 0)."
        )
    return levels.astype(np.uint8).reshape(-1, side, side)


class _Dtype:
    """Stands for numpy.dtype: takes plain numbers only."""

    def __init__(self, code: str, *_: object) -> None:
        if code not in _NUMBERS:
            raise pickle.UnpicklingError(f"it holds an array of type {code!r}, not of numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in {"<", ">", "|", "="}:
            raise pickle.UnpicklingError(f"it holds an array with byte order {state[1]!r}")
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """Stands for numpy.ndarray: built from its shape, type and bytes alone."""

    array: NDArray[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, is_fortran, content = state
        if not isinstance(kind, _Dtype):
            raise pickle.UnpicklingError("it holds an array without a type")
        if not isinstance(shape, tuple) or not all(
            type(n) is int and 0 <= n < 2**63 for n in shape
        ):
            raise pickle.UnpicklingError("it holds an array without a shape")
        # Strings of Python 2 come as text, one character for each byte.
        raw = content.encode("latin1") if isinstance(content, str) else content
        if not isinstance(raw, bytes) or len(raw) != prod(shape) * kind.dtype.itemsize:
            raise pickle.UnpicklingError("it holds an array with too few or too many bytes")
        flat = np.frombuffer(raw, kind.dtype)
        self.array = flat.reshape(shape, order="F" if is_fortran else "C")


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it encodes bytes as {encoding!r}")
    return text.encode("latin1")


class _Builder:
    """Calls a function or class for a pickle, which could change those themselves."""

    def __init__(self, build: Callable[..., object]) -> None:
        self._build = build

    def __call__(self, *arguments: object) -> object:
        return self._build(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes something that is no array")


# All that a pickle may name, and what is built in its place.
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): _Builder(_reconstruct),
    ("numpy._core.multiarray", "_reconstruct"): _Builder(_reconstruct),
    ("numpy", "ndarray"): _Builder(_Array),
    ("numpy", "dtype"): _Builder(_Dtype),
    ("_codecs", "encode"): _Builder(_encode),
}


# The unpickler in Python: the one in C can be made to fill the memory by a few bytes.
class _NumbersOnly(pickle._Unpickler):  # noqa: SLF001 - in all versions of Python 3
    """Builds tuples, lists, texts, numbers and arrays of numbers, nothing else."""

    def find_class(self, module_name: str, global_name: str) -> object:
        """Return the stand-in for a name in the pickle; there are only a few."""
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module_name}.{global_name}, and only arrays of numbers are read"
            ) from None
