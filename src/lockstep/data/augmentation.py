"""Augmentation: random changes to the samples of each batch, drawn anew whenever one is taken."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from lockstep.arrays import Array
from lockstep.data.batches import Scaling
from lockstep.data.dataset_file import DatasetInfo
from lockstep.data.deformation import MOST_SMOOTHNESS, Affine, Deformation, deformation_bytes
from lockstep.data.erasing import Erasing
from lockstep.data.normal import NormalNumbers
from lockstep.errors import UserError
from lockstep.streams import Purpose, philox

# Noise is drawn for so many numbers at a time, which stay in the cache.
_NOISE_BLOCK_VALUES = 2**15

# Given a generator and the rows of a virtual rank, (num_samples, num_features + 1), changes all
# but the last column.
Change = Callable[[np.random.Generator, Array], None]


@dataclass(frozen=True)
class Strengths:
    """How much samples are changed; the fields of the configuration's `augmentation`.

    Parameters
    ----------
    shift : float
        Largest shift in each direction, in pixels.
    rotation, shear : float
        Largest angles to either side, in degrees.
    zoom : float
        Largest change of height and of width, as a fraction.
    elastic_strength, elastic_smoothness : float
        Factor of the smoothed displacements, and standard deviation of the Gaussian that smooths
        them, both in pixels.
    noise : float
        Standard deviation on each pixel, where white is 1; on each input of what is no image.
    erasing, erasing_area : float
        Fraction of the samples in which a rectangle is erased, and the largest part of the image
        that is.
    """

    shift: float = 0.0
    rotation: float = 0.0
    zoom: float = 0.0
    shear: float = 0.0
    elastic_strength: float = 0.0
    elastic_smoothness: float = 4.0
    noise: float = 0.0
    erasing: float = 0.0
    erasing_area: float = 0.2

    @property
    def deforms(self) -> bool:
        """Whether pixels are moved."""
        return any((self.shift, self.rotation, self.zoom, self.shear, self.elastic_strength))

    @property
    def are_used(self) -> bool:
        """Whether anything is changed at all."""
        return self.deforms or self.noise > 0 or self.erasing > 0

    def check(self, info: DatasetInfo) -> None:
        """See that a data set can be changed in these ways.

        Raises
        ------
        UserError
            When its samples would have to be images, or the displacements would be too smooth.
        """
        if self.elastic_strength and self.elastic_smoothness > MOST_SMOOTHNESS:
            raise UserError(
                f"elastic_smoothness is {self.elastic_smoothness:g}, and can be {MOST_SMOOTHNESS} "
                "pixels at the most: displacements as smooth as that only shift an image."
            )
        if is_image_shaped(info.feature_shape):
            return
        names = ("shift", "rotation", "zoom", "shear", "elastic_strength", "erasing")
        used = [name for name in names if getattr(self, name)]
        if used:
            shape = " x ".join(map(str, info.feature_shape))
            raise UserError(
                f"[augmentation] sets {', '.join(used)}, which is for images, but the samples of "
                f"{info.name} have the shape {shape}. Leave that out; only noise is for all data."
            )


def augmentation_bytes(
    strengths: Strengths, info: DatasetInfo, num_samples: int, dtype: DTypeLike
) -> int:
    """Return how much an `Augmenter` allocates, at the most.

    Parameters
    ----------
    strengths : Strengths
        How much is changed.
    info : DatasetInfo
        Of the data.
    num_samples : int
        Rows per virtual rank.
    dtype : dtype
        Of the network.
    """
    itemsize, num_bytes = np.dtype(dtype).itemsize, 0
    if strengths.deforms and is_image_shaped(info.feature_shape):
        height, width = info.feature_shape[:2]
        num_bytes += deformation_bytes((height, width), num_samples, itemsize)
    if strengths.noise:
        num_bytes += _noise_rows(info.num_features) * info.num_features * itemsize
    return num_bytes


def is_image_shaped(feature_shape: tuple[int, ...]) -> bool:
    """Tell whether samples are gray or colour images: (height, width), with 1 or 3 channels."""
    return len(feature_shape) == 2 or (len(feature_shape) == 3 and feature_shape[2] in (1, 3))


class Augmenter:
    """Changes the samples of a rank's virtual ranks, at random.

    What is drawn is a pure function of seed, step and virtual rank, and every virtual rank's
    samples are changed on their own, so the bits don't depend on where it runs.

    Parameters
    ----------
    strengths : Strengths
        How much.
    info : DatasetInfo
        Of the data.
    scaling : Scaling
        Of the inputs, which also says what black and white have become there.
    virtual_ranks : range
        The rank's own.
    num_samples : int
        Rows per virtual rank.
    seed : int
        The run's.

    Raises
    ------
    UserError
        When the data can't be changed in these ways.
    """

    def __init__(
        self,
        strengths: Strengths,
        info: DatasetInfo,
        scaling: Scaling,
        virtual_ranks: range,
        num_samples: int,
        seed: int,
    ) -> None:
        strengths.check(info)
        self._seed = seed
        self._virtual_ranks = virtual_ranks
        self._changes = _changes(strengths, info, scaling, num_samples)

    def __call__(self, step: int, rows: Array) -> None:
        """Change a batch.

        Parameters
        ----------
        step : int
            Which part of the training; never the same one twice.
        rows : ndarray (num_virtual_ranks, num_samples, num_features + 1)
            The network's inputs, changed in place. The last column, which is of ones, is not;
            padding is.
        """
        if not self._changes:
            return
        for own, virtual_rank in zip(rows, self._virtual_ranks, strict=True):
            random = np.random.Generator(
                philox(self._seed, Purpose.AUGMENTATION, step, virtual_rank)
            )
            for change in self._changes:
                change(random, own)


def _changes(
    strengths: Strengths, info: DatasetInfo, scaling: Scaling, num_samples: int
) -> list[Change]:
    """Return what changes the rows of a virtual rank, (num_samples, num_features + 1)."""
    if not is_image_shaped(info.feature_shape):
        each_input = np.ones(info.num_features, scaling.scale.dtype)
        return [Noise(strengths.noise * each_input)] if strengths.noise else []
    shape = (*info.feature_shape, 1)[:3]
    black, unit = (
        np.broadcast_to(values.reshape(shape) if values.ndim else values, shape)
        for values in (scaling.offset, scaling.scale)
    )
    contrast = unit * unit.dtype.type(info.white)
    changes: list[Change] = []
    if strengths.deforms:
        affine = Affine(strengths.shift, strengths.rotation, strengths.zoom, strengths.shear)
        elastic = (strengths.elastic_strength, strengths.elastic_smoothness)
        changes.append(Deformation(affine, *elastic, black, unit, num_samples))
    if strengths.noise:
        changes.append(Noise(strengths.noise * contrast.ravel()))
    if strengths.erasing:
        changes.append(Erasing(strengths.erasing, strengths.erasing_area, black, contrast))
    return changes


def _noise_rows(num_features: int) -> int:
    """Return for how many rows noise is drawn at a time."""
    return max(1, _NOISE_BLOCK_VALUES // num_features)


class Noise:
    """Adds normal numbers to the inputs.

    Parameters
    ----------
    deviations : ndarray (num_features,)
        Standard deviation for each feature, in the network's inputs.
    """

    def __init__(self, deviations: Array) -> None:
        self._deviations = deviations
        self._normal = NormalNumbers(deviations.dtype)
        shape = (_noise_rows(deviations.size), deviations.size)
        self._noise: Array = np.empty(shape, deviations.dtype)

    def __call__(self, random: np.random.Generator, rows: Array) -> None:
        """Add noise to rows, (num_samples, num_features + 1), but for the last column."""
        for first in range(0, len(rows), len(self._noise)):
            inputs = rows[first : first + len(self._noise), :-1]
            noise = self._noise[: len(inputs)]
            self._normal.fill(random, noise)
            np.multiply(noise, self._deviations, out=noise)
            np.add(inputs, noise, out=inputs)
