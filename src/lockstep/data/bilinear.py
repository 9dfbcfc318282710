"""Bilinear interpolation of images."""

import numpy as np

from lockstep.arrays import Array


class Sampler:
    """Takes pixels from between those of an image, and black from outside of it.

    Parameters
    ----------
    black, unit : ndarray (height, width, channels)
        What a stored 0 is in the network's inputs, and how much a stored 1 is more than that.
    num_images : int
        At the most.
    """

    def __init__(self, black: Array, unit: Array, num_images: int) -> None:
        height, width, _ = black.shape
        self._black, self._unit = black, unit
        self._divisor = np.where(unit == 0, unit.dtype.type(1), unit)
        # A pixel before and two behind, for the neighbours of what is on the frame.
        self._framed: Array = np.zeros((num_images, height + 3, width + 3), black.dtype)
        # Where in it the first pixel of each image is.
        firsts = np.arange(num_images) * self._framed[0].size + (width + 3) + 1
        self._firsts = firsts[:, np.newaxis, np.newaxis]
        shape = (num_images, height, width)
        self._whole: Array = np.empty((num_images, 2, height, width), black.dtype)
        self._indices, self._columns = (np.empty(shape, np.intp) for _ in range(2))
        self._corners: Array = np.empty((4, *shape), black.dtype)

    def __call__(self, rows: Array, places: Array) -> None:
        """Replace every pixel by what is at another place, mixed of the four around it.

        Parameters
        ----------
        rows : ndarray (num_images, num_features + 1)
            The network's inputs, changed in place but for the last column.
        places : ndarray (num_images, 2, height, width)
            Row and column, in pixels; overwritten.
        """
        num_images = len(rows)
        images = rows[:, :-1].reshape(num_images, *self._black.shape)
        whole, indices = self._whole[:num_images], self._indices[:num_images]
        columns = self._columns[:num_images]
        for axis, length in enumerate(self._black.shape[:2]):
            np.clip(places[:, axis], -1, length, out=places[:, axis])
        np.floor(places, out=whole)
        fractions = np.subtract(places, whole, out=places)
        np.copyto(indices, whole[:, 0], casting="unsafe")
        np.copyto(columns, whole[:, 1], casting="unsafe")
        indices *= self._framed.shape[2]
        indices += columns
        indices += self._firsts[:num_images]
        for channel in range(images.shape[3]):
            self._sample(images[..., channel], channel, fractions)

    def _sample(self, images: Array, channel: int, fractions: Array) -> None:
        num_images = len(images)
        black, unit = self._black[..., channel], self._unit[..., channel]
        framed = self._framed[:num_images]
        inner = framed[:, 1:-2, 1:-2]
        np.subtract(images, black, out=inner)
        np.divide(inner, self._divisor[..., channel], out=inner)
        pixels = framed.reshape(-1)
        indices = self._indices[:num_images]
        left_to_right, down = fractions[:, 1], fractions[:, 0]
        corners = self._corners[:, :num_images]
        width = framed.shape[2]
        for corner, offset in zip(corners, (0, 1, width, width + 1), strict=True):
            # Clipping needs no check of the indices, so the gather goes straight to the buffer.
            pixels[offset:].take(indices, out=corner, mode="clip")
        top = _blend(corners[0], corners[1], left_to_right)
        bottom = _blend(corners[2], corners[3], left_to_right)
        blended = _blend(top, bottom, down)
        np.multiply(blended, unit, out=blended)
        np.add(blended, black, out=images)


def _blend(ours: Array, theirs: Array, fraction: Array) -> Array:
    """Return ours + fraction * (theirs - ours), in the place of `ours`."""
    theirs -= ours
    theirs *= fraction
    ours += theirs
    return ours
