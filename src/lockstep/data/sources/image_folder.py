"""A folder of images, with one sub-folder for each class."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lockstep.data.images import probe_image, read_image
from lockstep.data.progress import progress
from lockstep.data.sources.base import (
    Part,
    Request,
    Source,
    SourceFile,
    reading,
    sort_class_names,
)
from lockstep.errors import UserError

_WHITE = 255


def load(request: Request) -> Source:
    """Check all images; their pixels are read when they are fetched.

    Parameters
    ----------
    request : Request
        Heeds `image_size` and `color`.

    Returns
    -------
    Source
        uint8 images of one size. The "files" are the classes' folders, with the SHA-256 of the
        lines that `sha256sum *` prints there, in the order of the names' code points.

    Raises
    ------
    UserError
        When a file is no image, or lies where none should be.
    """
    classes = _find_classes(request.path)
    paths = [path for images in classes.values() for path in images]
    sizes, grays = [], []
    with progress(f"Checking {request.path.name}", len(paths), "image") as advance:
        for path in paths:
            size, gray = probe_image(path)
            sizes.append(size)
            grays.append(gray)
            advance(1)
    gray = all(grays) if request.color is None else request.color == "gray"
    feature_shape = (*(request.image_size or sizes[0]), *(() if gray else (3,)))
    counts = [len(images) for images in classes.values()]
    return Source(
        name=request.path.resolve().name,
        files=[_fingerprint(name, images) for name, images in classes.items()],
        class_names=tuple(classes),
        feature_shape=feature_shape,
        dtype=np.dtype(np.uint8),
        parts={
            "all": Part(
                _ImageRows(paths, feature_shape),
                np.repeat(np.arange(len(counts), dtype=np.int32), counts),
            )
        },
        scale=1 / _WHITE,
        image_form="image",
    )


@dataclass(frozen=True)
class _ImageRows:
    """Images that are decoded when they are fetched."""

    paths: list[Path]
    feature_shape: tuple[int, ...]

    def fetch(self, numbers: NDArray[np.intp]) -> NDArray[Any]:
        """Return the images with these numbers, (len(numbers), *feature_shape)."""
        rows = np.empty((len(numbers), *self.feature_shape), dtype=np.uint8)
        for row, number in zip(rows, numbers.tolist(), strict=True):
            row[...] = read_image(self.paths[number], self.feature_shape, "image")
        return rows


def _find_classes(folder: Path) -> dict[str, list[Path]]:
    """Return the images of each class, sorted by name."""
    entries = {entry.name: entry for entry in _visible(folder)}
    for entry in entries.values():
        if not entry.is_dir():
            raise UserError(
                f"{entry} lies beside the classes' folders: {folder} should hold one folder for "
                "each class, and nothing else. Move the file away."
            )
    return {name: _find_images(entries[name]) for name in sort_class_names(list(entries))}


def _find_images(folder: Path) -> list[Path]:
    images = sorted(_visible(folder), key=lambda path: path.name)
    for path in images:
        if not path.is_file():
            raise UserError(
                f"{path} is no image: the class folder {folder} should hold image files only."
            )
    if not images:
        raise UserError(f"The class folder {folder} holds no images: fill or remove it.")
    return images


def _visible(folder: Path) -> Iterable[Path]:
    with reading(folder):
        return [entry for entry in folder.iterdir() if not entry.name.startswith(".")]


def _fingerprint(name: str, images: list[Path]) -> SourceFile:
    files = map(SourceFile.of, images)
    lines = "".join(f"{file.sha256}  {file.name}\n" for file in files)
    return SourceFile(name, hashlib.sha256(lines.encode()).hexdigest())
