"""Augmented samples to be looked at."""

import numpy as np
import pytest

from lockstep.data.augmentation import Strengths
from lockstep.data.convert import ConvertOptions, convert
from lockstep.data.dataset_file import DatasetFile
from lockstep.data.preview import augmented_samples
from lockstep.errors import UserError

STRONG = Strengths(shift=1.0, rotation=20.0, noise=0.5, erasing=0.5)


def images_of(path, strengths=STRONG, num_samples=6, num_versions=4, seed=0):
    with DatasetFile.open(path) as dataset:
        return augmented_samples(dataset, strengths, seed, num_samples, num_versions)


def test_each_sample_stands_before_its_versions(digits_file):
    images, labels = images_of(digits_file)
    with DatasetFile.open(digits_file) as dataset:
        stored, y = dataset.read("train", 0, 6)
    assert images.shape == (6, 5, 8, 8)
    np.testing.assert_array_equal(images[:, 0], stored.reshape(6, 8, 8))
    np.testing.assert_array_equal(labels, y)
    assert len(np.unique(images.reshape(30, 64), axis=0)) == 30
    # What noise makes blacker than black is drawn as black.
    assert images.min() == stored.min() == 0
    assert images.max() == stored.max() == 16
    np.testing.assert_array_equal(images, images_of(digits_file)[0])
    assert (images != images_of(digits_file, seed=1)[0]).any()


def test_every_version_is_made_from_the_sample_itself(digits_file):
    images, _ = images_of(digits_file, Strengths(erasing=0.999), num_versions=7)
    # A fifth of the image is erased at the most.
    for version in range(1, 8):
        same = images[:, version] == images[:, 0]
        assert (same.mean(axis=(1, 2)) >= 0.8).all()
        assert not same.all()


def test_standardized_samples_are_drawn_as_they_are_stored(tmp_path, digits_file):
    path = tmp_path / "standardized.h5"
    convert("digits", path, ConvertOptions(standardize=True))
    ours, theirs = images_of(path)[0], images_of(digits_file)[0]
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_there_are_no_more_than_the_data_set_has(digits_file):
    assert images_of(digits_file, num_samples=10_000)[0].shape == (1437, 5, 8, 8)


def test_tables_have_no_picture(tmp_path):
    path = tmp_path / "table.h5"
    source = tmp_path / "table.csv"
    source.write_text("a,b,label\n" + "1,2,x\n3,4,y\n" * 30)
    convert(str(source), path, ConvertOptions())
    with pytest.raises(UserError, match=r"table\.h5 holds no images"):
        images_of(path, Strengths(noise=0.1))
    with pytest.raises(UserError, match="sets shift, rotation, erasing"):
        images_of(path)
