"""What kind of source a name, file or folder is."""

from enum import StrEnum
from pathlib import Path

import h5py

from lockstep.data.sources import idx
from lockstep.data.sources.base import reading
from lockstep.errors import UserError


class Kind(StrEnum):
    """The kinds of sources; each is read by the module of that name in `sources`."""

    DIGITS = "digits"
    MNIST = "mnist"
    IDX = "idx"
    PICKLED = "pickled"
    NPZ = "npz"
    TABLE = "table"
    IMAGE_FOLDER = "image_folder"

    @property
    def description(self) -> str:
        """What users call it."""
        return _DESCRIPTIONS[self]


_DESCRIPTIONS = {
    Kind.DIGITS: "`digits` (1,797 images that come with scikit-learn)",
    Kind.MNIST: "`mnist` (downloaded)",
    Kind.IDX: "a folder of four IDX files (MNIST, Fashion-MNIST)",
    Kind.PICKLED: "an mnist.pkl.gz file",
    Kind.NPZ: "an .npz file",
    Kind.TABLE: "a .csv, .tsv or .csv.gz file",
    Kind.IMAGE_FOLDER: "a folder with one sub-folder of images per class",
}

# The options that apply to one kind of source only.
OPTIONS: dict[Kind, frozenset[str]] = {
    Kind.DIGITS: frozenset(),
    Kind.MNIST: frozenset({"mirrors"}),
    Kind.IDX: frozenset(),
    Kind.PICKLED: frozenset(),
    Kind.NPZ: frozenset(),
    Kind.TABLE: frozenset({"label_column", "header", "delimiter"}),
    Kind.IMAGE_FOLDER: frozenset({"image_size", "color"}),
}

_SUFFIXES = {
    ".npz": Kind.NPZ,
    ".pkl": Kind.PICKLED,
    ".pickle": Kind.PICKLED,
    ".csv": Kind.TABLE,
    ".tsv": Kind.TABLE,
}


def recognize(source: str) -> Kind:
    """Return the kind of a source.

    Parameters
    ----------
    source : str
        `digits`, `mnist`, or the path of a file or folder. (A folder of the name `mnist` is
        written `./mnist`.)

    Raises
    ------
    UserError
        When there is no such source; the message lists what is possible.
    """
    if source in {Kind.DIGITS, Kind.MNIST}:
        return Kind(source)
    path = Path(source)
    if path.is_dir():
        return _recognize_folder(path)
    if not path.exists():
        raise _unknown(source, "There is no such file, folder or data set")
    kind = _SUFFIXES.get(Path(path.name.lower().removesuffix(".gz")).suffix)
    if kind is not None:
        return kind
    if h5py.is_hdf5(path):
        raise UserError(
            f"{source} is an HDF5 file: see what it holds with `lockstep inspect {source}`."
        )
    if any(name in path.name.replace(".idx", "-idx") for name in idx.FILES):
        raise UserError(f"{source} is one of four IDX files: name their folder instead.")
    raise _unknown(source, "That kind of file isn't known")


def _recognize_folder(folder: Path) -> Kind:
    if any(idx.find(folder, name) for name in idx.FILES):
        return Kind.IDX
    with reading(folder):
        entries = list(folder.iterdir())
    if any(entry.is_dir() and not entry.name.startswith(".") for entry in entries):
        return Kind.IMAGE_FOLDER
    raise _unknown(str(folder), "It has neither IDX files nor sub-folders of images")


def _unknown(source: str, why: str) -> UserError:
    possible = "; ".join(kind.description for kind in Kind)
    return UserError(f"Can't convert {source}: {why}. What can be converted: {possible}.")
