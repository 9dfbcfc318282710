"""Random erasing: where, how large and with what."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from lockstep.data.erasing import Erasing


def erase(fraction, most_area, shape, num_images, black=0.0, contrast=1.0, seed=0):
    """Return images of -100, after erasing."""
    black, contrast = (np.broadcast_to(np.float32(value), shape) for value in (black, contrast))
    rows = np.full((num_images, np.prod(shape) + 1), -100, np.float32)
    Erasing(fraction, most_area, black, contrast)(np.random.default_rng(seed), rows)
    assert (rows[:, -1] == -100).all()
    return rows[:, :-1].reshape(num_images, *shape)


def boxes_of(images):
    """Return (top, left, height, width) of what was erased in each image where something was."""
    erased = images != -100
    assert (erased == erased[..., :1]).all()
    boxes = []
    for mask in erased[..., 0]:
        if mask.any():
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            assert mask.sum() == len(rows) * len(columns)
            boxes.append((rows[0], columns[0], len(rows), len(columns)))
    return np.array(boxes)


def box_of_the_paper(random, most_area, height, width):
    """Return what algorithm 1 says, line by line."""
    while True:
        area = random.uniform(0.02, most_area) * height * width
        aspect = random.uniform(0.3, 1 / 0.3)
        box_height, box_width = int((area * aspect) ** 0.5), int((area / aspect) ** 0.5)
        top, left = random.integers(0, height), random.integers(0, width)
        if top + box_height <= height and left + box_width <= width:
            return top, left, box_height, box_width


@pytest.mark.parametrize("most_area", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("shape", [(28, 28, 1), (20, 40, 3)])
def test_rectangles_are_those_of_the_paper(most_area, shape):
    ours = boxes_of(erase(0.999, most_area, shape, 4000))
    random = np.random.default_rng(1)
    theirs = np.array([box_of_the_paper(random, most_area, *shape[:2]) for _ in range(4000)])
    assert len(ours) > 3980
    areas = ours[:, 2] * ours[:, 3] / (shape[0] * shape[1])
    assert areas.max() <= most_area
    assert (ours[:, 2:] >= theirs[:, 2:].min(axis=0)).all()
    for column in range(4):
        assert ks_2samp(ours[:, column], theirs[:, column]).pvalue > 0.01


def test_as_many_images_are_erased_as_was_asked_for():
    erased = (erase(0.25, 0.2, (10, 10, 1), 4000) != -100).any(axis=(1, 2, 3))
    assert erased.mean() == pytest.approx(0.25, abs=0.02)


def test_the_pixels_are_any_from_black_to_white():
    pixels = erase(0.9, 0.4, (16, 16, 3), 500, black=-1.0, contrast=3.0)
    pixels = pixels[pixels != -100]
    assert -1 <= pixels.min() < -0.99
    assert 1.99 < pixels.max() <= 2
    assert pixels.mean() == pytest.approx(0.5, abs=0.02)
    assert pixels.std() == pytest.approx(3 / 12**0.5, rel=0.02)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 30, 1), (3, 2, 3)])
@pytest.mark.parametrize("most_area", [1e-6, 1.0])
def test_small_images_lose_a_pixel_at_least(shape, most_area):
    erased = (erase(0.9, most_area, shape, 200) != -100).any(axis=(1, 2, 3))
    assert 150 < erased.sum() < 200
