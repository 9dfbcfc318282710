"""Image files as the model sees them."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lockstep.errors import UserError

Size = tuple[int, int]

# What MNIST's makers did: the ink fills 20 of 28 pixels, and its centre of mass is the centre.
_INK_SHARE = 20 / 28
# In smaller frames the ink fills the frame, and its box is centred, as in scikit-learn's digits
# of 8x8: a model of those tells 92 % of them right then, as from the data, and 19 % with a margin.
_SMALL_FRAME = 16
# Ink is what differs from the paper by more than this share of the strongest ink.
_INK_THRESHOLD = 0.1
# Less contrast than this, out of 255, is an empty sheet.
_MIN_CONTRAST = 20
# Drawings are brought down to this many pixels a side first: a photo has far more than needed.
_DRAWING_SIDE = 1024

# Other formats can have other programs run, or other files read.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
# What phones save: a JPEG file with a preview or a brightness map as a second frame.
_WITH_PREVIEW = "MPO"

_GRAY_MODES = {"1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I;16N"}
_COLOR_MODES = {"P", "PA", "RGB", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV", "LAB"}


def read_image(
    path: Path, feature_shape: tuple[int, ...], image_form: str, max_value: int = 255
) -> NDArray[np.uint8]:
    """Read an image file into the form of a data set's samples.

    Parameters
    ----------
    path : Path
        PNG, JPEG, BMP, GIF, TIFF, WebP or PPM, of one frame.
    feature_shape : tuple of int
        (height, width) for gray or (height, width, 3) for colour.
    image_form : str
        "image" for pictures that are only resized. "digit" for a drawing in any size, on paper
        of any brightness, which is brought into MNIST's form: white on black, the ink scaled to
        20/28 of the frame, its centre of mass in the middle. Frames below 16 pixels are filled.
    max_value : int
        What the data set stores for white.

    Returns
    -------
    ndarray of uint8, feature_shape
        From 0 to `max_value`.

    Raises
    ------
    UserError
        When the file is no image that can be read, is too large, or shows no digit; or when the
        data set holds no images.
    """
    if image_form == "none" or feature_shape[2:] not in {(), (3,)} or len(feature_shape) < 2:
        raise UserError(
            f"Can't read {path} for this data set: its samples of shape {feature_shape} are no "
            "images."
        )
    size = (feature_shape[0], feature_shape[1])
    with _open(path) as image:
        if image_form == "digit":
            pixels = _draw_digit(image, size, path)
        else:
            pixels = _resize(image, size, "RGB" if len(feature_shape) == 3 else "L")
    return np.rint(pixels * (max_value / 255)).astype(np.uint8)


def probe_image(path: Path) -> tuple[Size, bool]:
    """Return an image's size and whether it is gray.

    Returns
    -------
    size : tuple of int
        Height and width, as seen: turned by its EXIF orientation.
    gray : bool
        Whether it can hold no colours.

    Raises
    ------
    UserError
        When the file is no image that can be read, or too large.
    """
    with _open(path) as image:
        return (image.height, image.width), image.mode in _GRAY_MODES


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    """Open and decode an image, upright."""
    try:
        with warnings.catch_warnings(action="ignore"):
            # Pillow refuses huge images before it decodes them, and only warns of those half as
            # large.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as image:
                _check_kind(image, path)
                yield ImageOps.exif_transpose(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(
            f"{path} has more than {Image.MAX_IMAGE_PIXELS} pixels: make it smaller first."
        ) from error
    except UnidentifiedImageError as error:
        raise UserError(f"{path} is no image that can be read. Save it as PNG.") from error
    except UserError:
        raise
    except Exception as error:
        # Pillow's readers raise nearly anything on damaged files.
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Can't read the image {path}: {reason}.") from error


def _check_kind(image: Image.Image, path: Path) -> None:
    if getattr(image, "is_animated", False) and image.format != _WITH_PREVIEW:
        raise UserError(f"{path} has several frames: save one of them as PNG.")
    if image.mode not in _GRAY_MODES | _COLOR_MODES:
        raise UserError(f"{path} has pixels of type {image.mode}: save it with 8 bits per channel.")


def _resize(image: Image.Image, size: Size, mode: str) -> NDArray[Any]:
    """Return the image on white, in a mode and a size, (height, width[, 3])."""
    flat = _flatten(image, background=255).convert(mode)
    height, width = size
    if flat.size != (width, height):
        flat = flat.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(flat)


def _flatten(image: Image.Image, background: int) -> Image.Image:
    """Return the image without transparency, gray (L) or in colours (RGB), 8 bits each."""
    if image.mode.startswith("I;16"):
        # Pillow's own conversion would cut values off instead of scaling them.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, (background,) * 3 + (255,))
        image = Image.alpha_composite(paper, with_alpha)
    return image.convert("L" if image.mode in _GRAY_MODES else "RGB")


def _draw_digit(image: Image.Image, size: Size, path: Path) -> NDArray[np.float64]:
    """Return a drawing as MNIST would show it, (height, width), 0 to 255."""
    image.thumbnail((_DRAWING_SIDE, _DRAWING_SIDE))
    ink = _ink(image, path)
    rows, columns = (np.flatnonzero((ink > _INK_THRESHOLD).any(axis=axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return _centred(_scaled(ink, size), size) * 255


def _ink(image: Image.Image, path: Path) -> NDArray[np.float64]:
    """Return where the ink is, from 0 for the paper to 1 for the strongest, (height, width)."""
    background = 255
    if image.has_transparency_data:
        background = _contrasting_background(image)
    gray = np.asarray(_flatten(image, background).convert("L"), dtype=np.float64)
    border = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    paper = float(np.median(border))
    dark_ink = paper > (gray.min() + gray.max()) / 2
    ink = np.maximum(paper - gray if dark_ink else gray - paper, 0)
    if ink.max() < _MIN_CONTRAST:
        raise UserError(
            f"{path} shows nothing but an empty sheet. Draw a digit in a colour that differs "
            "clearly from the background."
        )
    strength: NDArray[np.float64] = ink / ink.max()
    return strength


def _contrasting_background(image: Image.Image) -> int:
    """Return the paper's brightness that shows the ink of a transparent drawing."""
    gray, alpha = (np.asarray(band, dtype=np.float64) for band in image.convert("LA").split())
    return 255 if (gray * alpha).sum() <= 127.5 * alpha.sum() else 0


def _scaled(ink: NDArray[np.float64], size: Size) -> NDArray[np.float64]:
    """Fit the ink into its share of the frame, keeping its proportions."""
    share = 1 if _is_small(size) else _INK_SHARE
    factor = share * min(size[0] / ink.shape[0], size[1] / ink.shape[1])
    height, width = (max(1, round(side * factor)) for side in ink.shape)
    drawing = Image.fromarray(ink.astype(np.float32))
    return np.asarray(drawing.resize((width, height), Image.Resampling.BOX), dtype=np.float64)


def _centred(ink: NDArray[np.float64], size: Size) -> NDArray[np.float64]:
    """Put the ink into the middle of the frame, as near as whole pixels come."""
    top, left = (_start(ink, size, axis) for axis in (0, 1))
    frame = np.zeros(size)
    frame[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return frame


def _start(ink: NDArray[np.float64], size: Size, axis: int) -> int:
    """Return where the ink starts along an axis."""
    room: int = size[axis] - ink.shape[axis]
    if _is_small(size):
        return (room + 1) // 2
    mass = ink.sum(axis=1 - axis)
    centre = float((np.arange(len(mass)) * mass).sum() / mass.sum())
    return min(max(round(size[axis] / 2 - centre), 0), room)


def _is_small(size: Size) -> bool:
    return min(size) < _SMALL_FRAME
