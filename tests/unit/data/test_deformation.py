"""Deformation against hand-worked images and against SciPy."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from lockstep.data.deformation import Affine, Deformation, Elastic

STILL = Affine(0, 0, 0, 0)


class Highest:
    """A generator whose uniform numbers are as large as they can be."""

    def uniform(self, low, high, size):
        return np.full(size, high, float)


def rows_of(images, dtype="float64"):
    rows = np.ones((len(images), images[0].size + 1), dtype)
    rows[:, :-1] = images.reshape(len(images), -1)
    return rows


def deformation(shape, affine=STILL, strength=0.0, smoothness=2.0, black=0.0, unit=1.0):
    black, unit = (np.broadcast_to(np.float64(value), shape) for value in (black, unit))
    return Deformation(affine, strength, smoothness, black, unit, 1000)


def deform(image, random, **options):
    image = np.asarray(image, float)
    rows = rows_of(image[np.newaxis])
    deformation((*image.shape, 1)[:3], **options)(random, rows)
    assert rows[0, -1] == 1
    return rows[0, :-1].reshape(image.shape)


def test_without_any_limit_images_stay_as_they_are():
    images = np.random.default_rng(0).random((300, 9, 7))
    rows = rows_of(images)
    deformation((9, 7, 1))(np.random.default_rng(1), rows)
    np.testing.assert_array_equal(rows, rows_of(images))


def test_a_shift_moves_an_image_down_and_right_and_brings_in_black():
    image = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert deform(image, Highest(), affine=Affine(1, 0, 0, 0)).tolist() == [
        [0, 0, 0], [0, 1, 2], [0, 4, 5]
    ]  # fmt: skip
    # Half of each is what was there, half of it what was left of it and above.
    assert deform(image, Highest(), affine=Affine(0.5, 0, 0, 0)).tolist() == [
        [0.25, 0.75, 1.25], [1.25, 3, 4], [2.75, 6, 7]
    ]  # fmt: skip


def test_far_away_there_is_nothing():
    for affine in (Affine(1e30, 0, 0, 0), Affine(100, 180, 0.999, 80)):
        assert not deform(np.ones((4, 5)), Highest(), affine=affine, black=0).any()


@pytest.mark.parametrize(("degrees", "quarters"), [(90, 1), (180, 2)])
def test_a_rotation_turns_about_the_middle(degrees, quarters):
    image = np.random.default_rng(2).random((5, 5))
    turned = deform(image, Highest(), affine=Affine(0, degrees, 0, 0))
    np.testing.assert_allclose(turned, np.rot90(image, -quarters), atol=1e-12)


def test_a_zoom_draws_away_from_the_middle():
    # Twice as wide and high: every other place is half-way between two pixels.
    image = np.array([[0, 0, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 4, 0, 0]] + [[0] * 5] * 2)
    larger = deform(image, Highest(), affine=Affine(0, 0, 1, 0))
    assert larger.tolist() == [
        [0, 0, 0, 0, 0], [0, 1, 2, 1, 0], [0, 2, 4, 2, 0], [0, 1, 2, 1, 0], [0, 0, 0, 0, 0]
    ]  # fmt: skip


def test_a_shear_slants():
    # By 45 degrees, every row goes one further to the right than the one above.
    image = np.array([[0, 1, 0]] * 3)
    slanted = deform(image, Highest(), affine=Affine(0, 0, 0, 45))
    np.testing.assert_allclose(slanted, np.eye(3), atol=1e-12)


class InTurn:
    """A generator of given uniform numbers."""

    def __init__(self, *draws):
        self.draws = list(draws)

    def uniform(self, low, high, size):
        return np.reshape(self.draws.pop(0), size)


def test_an_image_is_zoomed_then_sheared_then_rotated_then_shifted():
    # Shift, rotation, shear, and the zooms of height and width.
    draws = InTurn([[5.0, -7.0]], [30.0], [20.0], [[2.0, 0.5]])
    [matrix], [shift] = Affine(9, 90, 1, 45).draw(draws, 1)
    row, column = 3.0, 4.0
    place = np.array([2.0 * row, 0.5 * column])
    place[1] += np.tan(np.radians(20)) * place[0]
    cosine, sine = np.cos(np.radians(30)), np.sin(np.radians(30))
    place = np.array([cosine * place[0] + sine * place[1], cosine * place[1] - sine * place[0]])
    place += np.array([5, -7])
    np.testing.assert_allclose(matrix @ (place - shift), [row, column])


def test_drawn_maps_keep_to_their_limits_and_fill_them():
    num_maps = 4000
    random = np.random.default_rng(3)
    _, shifts = Affine(3, 0, 0, 0).draw(random, num_maps)
    rotations, _ = Affine(0, 20, 0, 0).draw(random, num_maps)
    zooms, _ = Affine(0, 0, 0.2, 0).draw(random, num_maps)
    shears, _ = Affine(0, 0, 0, 30).draw(random, num_maps)
    angles = np.degrees(np.arctan2(rotations[:, 1, 0], rotations[:, 0, 0]))
    slants = np.degrees(np.arctan(shears[:, 1, 0]))
    for values, limit in (
        (shifts[:, 0], 3), (shifts[:, 1], 3), (angles, 20), (slants, 30),
        (1 / zooms[:, 0, 0] - 1, 0.2), (1 / zooms[:, 1, 1] - 1, 0.2),
    ):  # fmt: skip
        assert np.abs(values).max() <= limit * (1 + 1e-9)
        # Uniform numbers: their mean is 0, and their deviation the limit over the root of 3.
        assert abs(values.mean()) < 0.05 * limit
        assert values.std() == pytest.approx(limit / 3**0.5, rel=0.03)
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.05
    assert abs(np.corrcoef(zooms[:, 0, 0], zooms[:, 1, 1])[0, 1]) < 0.05
    np.testing.assert_allclose(np.linalg.det(rotations), 1)


def scipy_image(image, matrix, shift, displacement):
    """What an image becomes, by SciPy: its places are mapped one after the other."""
    height, width = image.shape
    middle = np.array([[height - 1], [width - 1]]) / 2
    grid = np.stack(np.meshgrid(range(height), range(width), indexing="ij"))
    places = matrix @ (grid.reshape(2, -1) - middle - shift[:, np.newaxis]) + middle
    places += displacement.reshape(2, -1)
    return map_coordinates(image, places, order=1, mode="grid-constant").reshape(image.shape)


@pytest.mark.parametrize("shape", [(28, 28, 1), (9, 14, 3), (200, 180, 1)])
@pytest.mark.parametrize("strength", [0.0, 20.0])
def test_deformed_images_are_those_of_scipy(shape, strength):
    num_images = 50 if shape[0] < 100 else 3
    images = np.random.default_rng(4).random((num_images, *shape))
    affine = Affine(2, 25, 0.3, 15)
    deform_all = deformation(shape, affine, strength, 3.0)
    rows = rows_of(images)
    deform_all(np.random.default_rng(5), rows)
    deformed = rows[:, :-1].reshape(images.shape)

    # The same draws again, in blocks of the same size.
    random = np.random.default_rng(5)
    for first in range(0, num_images, deform_all.images_at_once):
        block = images[first : first + deform_all.images_at_once]
        matrices, shifts = affine.draw(random, len(block))
        displacements = np.zeros((len(block), 2, *shape[:2]))
        if strength:
            Elastic(strength, 3.0, shape[:2], len(block), "float64").draw(random, displacements)
        for number, image in enumerate(block):
            for channel in range(shape[2]):
                expected = scipy_image(
                    image[..., channel], matrices[number], shifts[number], displacements[number]
                )
                np.testing.assert_allclose(
                    deformed[first + number, ..., channel], expected, atol=1e-9
                )
    assert (rows[:, -1] == 1).all()


@pytest.mark.parametrize(("strength", "smoothness"), [(34.0, 4.0), (8.0, 1.5), (2.0, 0.3)])
def test_elastic_displacements_are_as_strong_and_smooth_as_those_of_scipy(strength, smoothness):
    size, num_images = (24, 32), 400
    ours = np.empty((num_images, 2, *size))
    Elastic(strength, smoothness, size, num_images, "float64").draw(np.random.default_rng(6), ours)

    # Simard's, on more than the image, so that no edge of the numbers is seen.
    margin = 20
    shape = (num_images, 2, size[0] + 2 * margin, size[1] + 2 * margin)
    numbers = np.random.default_rng(7).uniform(-1, 1, shape)
    theirs = strength * gaussian_filter(numbers, (0, 0, smoothness, smoothness))
    theirs = theirs[:, :, margin:-margin, margin:-margin]

    assert ours.std() == pytest.approx(theirs.std(), rel=0.02)
    # As strong at the edges as in the middle.
    by_place = (ours**2).mean(axis=(0, 1)) ** 0.5
    np.testing.assert_allclose(by_place, theirs.std(), rtol=0.15)
    for lag in range(1, 12):
        for axis in (2, 3):
            assert correlation(ours, lag, axis) == pytest.approx(
                correlation(theirs, lag, axis), abs=0.04
            )
    # Row and column, and one image and the next, have nothing to do with each other.
    assert abs((ours[:, 0] * ours[:, 1]).mean()) < 0.05 * ours.var()
    assert abs((ours[1:] * ours[:-1]).mean()) < 0.05 * ours.var()


def correlation(fields, lag, axis):
    ahead = np.take(fields, range(lag, fields.shape[axis]), axis)
    behind = np.take(fields, range(fields.shape[axis] - lag), axis)
    return (ahead * behind).mean() / (fields**2).mean()


def test_the_deviation_of_elastic_displacements_by_hand():
    # With no smoothness to speak of, each is a number of its own: uniform from -3 to 3.
    fields = np.empty((200, 2, 10, 10))
    Elastic(3.0, 0.05, (10, 10), 200, "float64").draw(np.random.default_rng(8), fields)
    assert fields.std() == pytest.approx(3 / 3**0.5, rel=0.02)
    # A smooth one loses by the sum of the squared kernel, which is 1 / (2 sigma sqrt(pi)), twice.
    Elastic(34.0, 4.0, (10, 10), 200, "float64").draw(np.random.default_rng(8), fields)
    assert fields.std() == pytest.approx(34 / 3**0.5 / (2 * 4 * np.pi**0.5), rel=0.05)


def test_pixels_are_mixed_as_they_were_stored():
    # Of a row of two pixels the second is stored ten times as large, and both have an offset.
    unit, black = np.array([[[1.0], [10.0]]]), np.array([[[5.0], [-1.0]]])
    stored = np.array([[2.0, 4.0]])
    inputs = (stored * unit[..., 0] + black[..., 0])[np.newaxis]
    rows = rows_of(inputs)
    half = Affine(0.5, 0, 0, 0)
    Deformation(half, 0.0, 2.0, black, unit, 1)(Highest(), rows)
    # Shifted by half a pixel down, everything is half black, and by half a pixel to the right.
    np.testing.assert_allclose(rows, [[0.5 + 5, 15 - 1, 1]])


def test_a_pixel_that_the_network_never_sees_stays_so():
    unit, black = np.array([[[1.0], [0.0]]]), np.array([[[0.0], [7.0]]])
    rows = np.array([[3.0, 7.0, 1.0]])
    Deformation(Affine(1, 30, 0.5, 0), 0.0, 2.0, black, unit, 1)(np.random.default_rng(9), rows)
    assert rows[0, 1:].tolist() == [7, 1]
