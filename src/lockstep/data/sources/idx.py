"""A folder of four IDX files, as MNIST and its relatives are published."""

import struct
from math import prod
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
)
from lockstep.errors import UserError

IMAGES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
LABELS = {"train": "train-labels-idx1-ubyte", "test": "t10k-labels-idx1-ubyte"}
FILES = (*IMAGES.values(), *LABELS.values())

# Two zero bytes, 8 for unsigned bytes, and the number of dimensions.
_MAGIC = b"\0\0\x08"
_WHITE = 255


def find(folder: Path, name: str) -> Path | None:
    """Return the IDX file of that name in a folder, in any usual spelling, or None."""
    for spelling in (name, name.replace("-idx", ".idx")):
        for suffix in ("", ".gz"):
            path = folder / f"{spelling}{suffix}"
            if path.is_file():
                return path
    return None


def load(request: Request) -> Source:
    """Read the four files.

    Parameters
    ----------
    request : Request
        Its path names the folder.

    Returns
    -------
    Source
        uint8 images with the parts "train" and "test".

    Raises
    ------
    UserError
        When a file is missing or damaged, or images and labels don't belong together.
    """
    paths = {name: _require(request.path, name) for name in FILES}
    images = {part: _read(paths[name], num_dims=3) for part, name in IMAGES.items()}
    labels = {part: _read(paths[name], num_dims=1) for part, name in LABELS.items()}
    for part in IMAGES:
        _check_counts(paths[IMAGES[part]], images[part], paths[LABELS[part]], labels[part])
    feature_shape = images["train"].shape[1:]
    if images["test"].shape[1:] != feature_shape:
        raise UserError(
            f"{paths[IMAGES['test']]} has images of {_by(images['test'].shape[1:])} pixels, and "
            f"{paths[IMAGES['train']]} of {_by(feature_shape)}: they belong to different data sets."
        )
    class_names, indices = encode_labels(labels, request.path)
    return Source(
        name=request.path.name,
        files=[SourceFile.of(path) for path in paths.values()],
        class_names=class_names,
        feature_shape=feature_shape,
        dtype=images["train"].dtype,
        parts={part: Part(ArrayRows(images[part]), indices[part]) for part in IMAGES},
        scale=1 / _WHITE,
        image_form="digit",
    )


def _require(folder: Path, name: str) -> Path:
    path = find(folder, name)
    if path is None:
        raise UserError(
            f"{folder} lacks {name} (or {name}.gz). A folder of IDX files has these four: "
            f"{', '.join(FILES)}."
        )
    return path


def _read(path: Path, num_dims: int) -> NDArray[Any]:
    with open_unzipped(path) as file:
        header = file.read(4)
        if header != _MAGIC + bytes([num_dims]):
            raise UserError(
                f"{path} is no IDX file of {'images' if num_dims == 3 else 'labels'}: it starts "
                f"with {header.hex(' ')} instead of {(_MAGIC + bytes([num_dims])).hex(' ')}."
            )
        sizes = file.read(4 * num_dims)
        if len(sizes) < 4 * num_dims:
            raise _wrong_size(path, "its header is cut off")
        shape = struct.unpack(f">{num_dims}I", sizes)
        if 0 in shape:
            raise UserError(f"{path} is empty: its dimensions are {_by(shape)}.")
        content = file.read()
    if len(content) != prod(shape):
        raise _wrong_size(
            path, f"it holds {len(content)} bytes of data, and {_by(shape)} are {prod(shape)}"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def _wrong_size(path: Path, what: str) -> UserError:
    return UserError(f"{path} is damaged: {what}. Get it again.")


def _check_counts(
    images_path: Path, images: NDArray[Any], labels_path: Path, labels: NDArray[Any]
) -> None:
    if len(images) != len(labels):
        raise UserError(
            f"{images_path} holds {len(images)} images, but {labels_path} {len(labels)} labels: "
            "they don't belong together."
        )


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
