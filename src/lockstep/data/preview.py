"""Samples and what augmentation makes of them, to be looked at."""

import numpy as np

from lockstep.arrays import Array
from lockstep.data.augmentation import Augmenter, Strengths, is_image_shaped
from lockstep.data.batches import scaling_of
from lockstep.data.dataset_file import DatasetFile
from lockstep.errors import UserError


def augmented_samples(
    dataset: DatasetFile, strengths: Strengths, seed: int, num_samples: int, num_versions: int
) -> tuple[Array, Array]:
    """Return the first training samples, and several augmented versions of each.

    Parameters
    ----------
    dataset : DatasetFile
        Open.
    strengths : Strengths
        How much is changed.
    seed : int
        Of the changes.
    num_samples : int
        As many, if there are.
    num_versions : int
        For each of them.

    Returns
    -------
    images : ndarray of float32 (num_samples, 1 + num_versions, *feature_shape)
        Each sample, then its versions; in stored numbers, none beyond those of the samples.
    y : ndarray of int32 (num_samples,)
        Class indices.

    Raises
    ------
    UserError
        When the samples are no images, or nothing is changed.
    """
    info = dataset.info
    strengths.check(info)
    if not is_image_shaped(info.feature_shape):
        raise UserError(f"{dataset.path} holds no images, so there is no augmented one to draw.")
    scaling = scaling_of(dataset, "float32")
    stored, y = dataset.read("train", 0, min(num_samples, info.num_samples["train"]))
    rows = np.ones((1, len(stored), info.num_features + 1), np.float32)
    images = np.empty((len(stored), 1 + num_versions, info.num_features), np.float32)
    augment = Augmenter(strengths, info, scaling, range(1), len(stored), seed)
    images[:, 0] = stored
    divisor = np.where(scaling.scale == 0, 1, scaling.scale)
    for version in range(num_versions):
        scaling.apply(stored, rows[0, :, :-1])
        augment(version, rows)
        images[:, 1 + version] = (rows[0, :, :-1] - scaling.offset) / divisor
    np.clip(images, stored.min(), stored.max(), out=images)
    return images.reshape(*images.shape[:2], *info.feature_shape), y
