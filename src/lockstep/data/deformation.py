"""Deformation of images: where in the input every pixel of the output comes from."""

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import DTypeLike, NDArray

from lockstep.arrays import Array
from lockstep.data.bilinear import Sampler
from lockstep.data.normal import NormalNumbers

# So many pixels are deformed at a time, so that all that belongs to them stays in the cache.
_BLOCK_PIXELS = 2**15
# Of the kernel, in standard deviations.
_KERNEL_RADIUS = 4
# What the basis leaves out of the displacements' variance.
_LEFT_OUT = 1e-4
# Of the Gaussian, in pixels; the kernel has to fit into memory.
MOST_SMOOTHNESS = 1000
_LEAST_SMOOTHNESS = 0.01
# Of uniform numbers from -1 to 1.
_UNIFORM_VARIANCE = 1 / 3


@dataclass(frozen=True)
class Affine:
    """Random shifts, rotations, zooms and shears about the middle of the image.

    Parameters
    ----------
    shift : float
        Largest shift in each direction, in pixels.
    rotation, shear : float
        Largest angles to either side, in degrees.
    zoom : float
        Largest change of height and of width, as a fraction.
    """

    shift: float
    rotation: float
    zoom: float
    shear: float

    def draw(
        self, random: np.random.Generator, num_images: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Draw maps from the output to the input: matrix times (place - shift).

        An image is zoomed, then sheared, rotated and shifted.

        Parameters
        ----------
        random : Generator
            Whose numbers are taken.
        num_images : int
            As many maps.

        Returns
        -------
        matrices : ndarray (num_images, 2, 2)
            For places (row, column), counted from the middle.
        shifts : ndarray (num_images, 2)
            In pixels.
        """
        shifts = random.uniform(-self.shift, self.shift, (num_images, 2))
        angles = np.radians(random.uniform(-self.rotation, self.rotation, num_images))
        slopes = np.tan(np.radians(random.uniform(-self.shear, self.shear, num_images)))
        zooms = random.uniform(1 - self.zoom, 1 + self.zoom, (num_images, 2))
        cosines, sines = np.cos(angles), np.sin(angles)
        zeros, ones = np.zeros(num_images), np.ones(num_images)
        back = _matrices(cosines, -sines, sines, cosines)
        upright = _matrices(ones, zeros, -slopes, ones)
        return (upright @ back) / zooms[:, :, np.newaxis], shifts


def _matrices(*entries: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.stack(entries, axis=1).reshape(-1, 2, 2)


class Elastic:
    """Random displacements that change smoothly over the image.

    They are those of Simard et al.: an independent number for each pixel, uniform from -1 to 1,
    smoothed by a Gaussian with the sum 1 and multiplied by the strength. The numbers go on beyond
    the edges, so the displacements are as strong there as in the middle.

    A smoothed sum of so many numbers is normal to a good approximation, and only its slow waves
    have any strength. So normal numbers are drawn for these waves alone, some hundred instead of
    thousands per image, with the same covariance.

    Parameters
    ----------
    strength : float
        Factor of the smoothed displacements, in pixels.
    smoothness : float
        Standard deviation of the Gaussian, in pixels.
    size : tuple of int
        Height and width of the images.
    num_images : int
        For which displacements are drawn at a time, at the most.
    dtype : dtype
        Of the displacements.

    References
    ----------
    P. Y. Simard, D. Steinkraus, J. C. Platt, "Best Practices for Convolutional Neural Networks
    Applied to Visual Document Analysis", ICDAR 2003, section 2.
    """

    def __init__(
        self,
        strength: float,
        smoothness: float,
        size: tuple[int, int],
        num_images: int,
        dtype: DTypeLike,
    ) -> None:
        down, across = (_waves(length, smoothness) for length in size)
        self._down = (down * (strength * _UNIFORM_VARIANCE**0.5)).astype(dtype)
        self._across = np.ascontiguousarray(across.T, dtype)
        num_down, num_across = down.shape[1], across.shape[1]
        self._normal = NormalNumbers(dtype)
        self._amplitudes: Array = np.empty((num_images, 2, num_down, num_across), dtype)
        self._half: Array = np.empty((num_images, 2, num_down, size[1]), dtype)

    def draw(self, random: np.random.Generator, out: Array) -> None:
        """Draw displacements.

        Parameters
        ----------
        random : Generator
            Whose numbers are taken.
        out : ndarray (num_images, 2, height, width)
            Overwritten with displacements of row and column, in pixels.
        """
        amplitudes, half = self._amplitudes[: len(out)], self._half[: len(out)]
        self._normal.fill(random, amplitudes)
        # A small product for each image: its bits depend on no other.
        np.matmul(amplitudes, self._across, out=half)
        np.matmul(self._down, half, out=out)


def _waves(length: int, smoothness: float) -> NDArray[np.float64]:
    """Return what makes smoothed noise, (length,), of independent normal numbers of variance 1.

    That is white noise, from well beyond both edges, times a matrix of shifted Gaussians. The
    covariance of the product has few eigenvalues of any size: they and their vectors say it all.

    Returns
    -------
    ndarray (length, num_waves)
        The strongest wave first.
    """
    # Far below a pixel, each number stays on its own, and squares vanish.
    smoothness = max(smoothness, _LEAST_SMOOTHNESS)
    radius = ceil(_KERNEL_RADIUS * smoothness)
    distances = np.arange(-radius, radius + 1)
    kernel = np.exp(-(distances**2) / (2 * smoothness**2))
    kernel /= kernel.sum()
    products = np.correlate(kernel, kernel, "full")[2 * radius :]
    products = np.pad(products, (0, length))
    places = np.arange(length)
    covariance = products[np.abs(places[:, np.newaxis] - places)]
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]
    num_waves = 1 + int(np.argmax(np.cumsum(values) >= (1 - _LEFT_OUT) * values.sum()))
    waves: NDArray[np.float64] = vectors[:, :num_waves] * np.sqrt(values[:num_waves])
    return waves


def images_at_once(size: tuple[int, int], num_images: int) -> int:
    """Return how many images of a batch are drawn and deformed together."""
    height, width = size
    return min(num_images, max(1, _BLOCK_PIXELS // (height * width)))


def deformation_bytes(size: tuple[int, int], num_images: int, itemsize: int) -> int:
    """Return how much a `Deformation` allocates for pixels, at the most.

    Parameters
    ----------
    size : tuple of int
        Height and width of the images.
    num_images : int
        Of a batch.
    itemsize : int
        Bytes of one of the network's numbers.
    """
    height, width = size
    # Places and their whole parts in two directions, corners, and the waves of displacements before
    # and after the product for one direction; two indices.
    pixel_bytes = (2 + 2 + 4 + 4) * itemsize + 2 * np.dtype(np.intp).itemsize
    framed_bytes = (height + 3) * (width + 3) * itemsize
    return images_at_once(size, num_images) * (height * width * pixel_bytes + framed_bytes)


class Deformation:
    """Moves the pixels of each image along a smooth random map, by bilinear interpolation.

    What comes from outside the image is black.

    Parameters
    ----------
    affine : Affine
        Whose maps are drawn.
    elastic_strength, elastic_smoothness : float
        See `Elastic`.
    black, unit : ndarray (height, width, channels)
        What a stored 0 is in the network's inputs, and how much a stored 1 is more than that.
    num_images : int
        Of a batch.

    Attributes
    ----------
    images_at_once : int
        How many are drawn and deformed together.
    """

    def __init__(
        self,
        affine: Affine,
        elastic_strength: float,
        elastic_smoothness: float,
        black: Array,
        unit: Array,
        num_images: int,
    ) -> None:
        height, width, _ = black.shape
        dtype = black.dtype
        num_images = images_at_once((height, width), num_images)
        self.images_at_once = num_images
        self._affine = affine
        self._elastic = None
        if elastic_strength:
            self._elastic = Elastic(
                elastic_strength, elastic_smoothness, (height, width), num_images, dtype
            )
        self._middle = np.array([height - 1, width - 1]) / 2
        self._rows, self._columns = (
            np.arange(length) - middle
            for length, middle in zip((height, width), self._middle, strict=True)
        )
        self._places: Array = np.empty((num_images, 2, height, width), dtype)
        self._sampler = Sampler(black, unit, num_images)

    def __call__(self, random: np.random.Generator, rows: Array) -> None:
        """Deform images.

        Parameters
        ----------
        random : Generator
            Whose numbers are taken.
        rows : ndarray (num_images, num_features + 1)
            The network's inputs, changed in place but for the last column.
        """
        for first in range(0, len(rows), self.images_at_once):
            block = rows[first : first + self.images_at_once]
            places = self._places[: len(block)]
            self._draw_places(random, places)
            self._sampler(block, places)

    def _draw_places(self, random: np.random.Generator, places: Array) -> None:
        """Draw where in the input every pixel comes from, (num_images, 2, height, width)."""
        matrices, shifts = self._affine.draw(random, len(places))
        starts = self._middle - (matrices @ shifts[:, :, np.newaxis])[:, :, 0]
        by_row = matrices[:, :, 0, np.newaxis] * self._rows + starts[:, :, np.newaxis]
        by_column = matrices[:, :, 1, np.newaxis] * self._columns
        by_row, by_column = (each.astype(places.dtype) for each in (by_row, by_column))
        if self._elastic is None:
            np.add(by_row[..., np.newaxis], by_column[:, :, np.newaxis], out=places)
            return
        self._elastic.draw(random, places)
        np.add(places, by_row[..., np.newaxis], out=places)
        np.add(places, by_column[:, :, np.newaxis], out=places)
