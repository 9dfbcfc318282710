"""Random erasing: a rectangle of some images is filled with random pixels."""

import numpy as np
from numpy.typing import NDArray

from lockstep.arrays import Array

# Of the paper's experiments: the smallest part of the image, and the limits of the rectangle's
# height over its width.
_LEAST_AREA = 0.02
_ASPECTS = (0.3, 1 / 0.3)
# Rectangles that are drawn for an image at a time, of which the first one that fits is taken.
_NUM_TRIES = 8


class Erasing:
    """Fills a rectangle of some of the images with random pixels.

    Parameters
    ----------
    fraction : float
        How many of the images.
    most_area : float
        Largest part of the image that is filled.
    black, contrast : ndarray (height, width, channels)
        What a stored 0 is in the network's inputs, and how much white is more than that.

    References
    ----------
    Z. Zhong, L. Zheng, G. Kang, S. Li, Y. Yang, "Random Erasing Data Augmentation", AAAI 2020,
    algorithm 1.
    """

    def __init__(self, fraction: float, most_area: float, black: Array, contrast: Array) -> None:
        self._fraction = fraction
        self._areas = (min(_LEAST_AREA, most_area), most_area)
        self._black = black
        self._contrast = contrast

    def __call__(self, random: np.random.Generator, rows: Array) -> None:
        """Erase what is drawn.

        Parameters
        ----------
        random : Generator
            Whose numbers are taken.
        rows : ndarray (num_images, num_features + 1)
            The network's inputs, changed in place but for the last column.
        """
        images = rows[:, :-1].reshape(len(rows), *self._black.shape)
        chosen = np.flatnonzero(random.random(len(rows)) < self._fraction)
        for image, box in zip(chosen, self._boxes(random, len(chosen)), strict=True):
            top, left, bottom, right = box
            where = np.s_[top:bottom, left:right]
            shape = (bottom - top, right - left, images.shape[3])
            shades: Array = random.random(shape, dtype=images.dtype.type)
            images[(image, *where)] = shades * self._contrast[where] + self._black[where]

    def _boxes(self, random: np.random.Generator, num_boxes: int) -> NDArray[np.intp]:
        """Draw rectangles until each is inside of its image.

        Returns
        -------
        ndarray (num_boxes, 4)
            First row and column, and those behind the last.
        """
        size = np.array(self._black.shape[:2])
        boxes = np.empty((num_boxes, 4), np.intp)
        waiting = np.arange(num_boxes)
        while len(waiting):
            shape = (len(waiting), _NUM_TRIES)
            areas = random.uniform(*self._areas, shape) * size.prod()
            aspects = random.uniform(*_ASPECTS, shape)
            sides = np.sqrt(np.stack([areas * aspects, areas / aspects], axis=2))
            # Rounded down, for none is to be larger than the largest part.
            lengths = np.maximum(1, sides.astype(np.intp))
            starts = (random.random((*shape, 2)) * size).astype(np.intp)
            fits = (starts + lengths <= size).all(axis=2)
            first = np.arange(len(waiting)), fits.argmax(axis=1)
            boxes[waiting, :2] = starts[first]
            boxes[waiting, 2:] = starts[first] + lengths[first]
            waiting = waiting[~fits.any(axis=1)]
        return boxes
