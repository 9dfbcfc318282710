"""The augmenter: what is drawn for whom, in which units, and what it refuses."""

import tracemalloc

import numpy as np
import pytest

from lockstep.data.augmentation import Augmenter, Strengths, augmentation_bytes
from lockstep.data.batches import Scaling
from lockstep.data.dataset_file import DatasetInfo
from lockstep.errors import UserError

DEFORMING = {
    "shift": 2.0, "rotation": 15.0, "zoom": 0.2, "shear": 10.0, "elastic_strength": 20.0,
    "elastic_smoothness": 3.0,
}  # fmt: skip
EVERYTHING = Strengths(**DEFORMING, noise=0.1, erasing=0.5)
EACH = [
    *(Strengths(**{name: DEFORMING[name]}) for name in DEFORMING if name != "elastic_smoothness"),
    Strengths(noise=0.1),
    Strengths(erasing=0.5),
    EVERYTHING,
]


def info_of(feature_shape, white=255):
    return DatasetInfo(
        name="some", class_names=("a", "b"), feature_shape=feature_shape,
        dtype=np.dtype(np.uint8), scale=1.0, offset=0.0, image_form="none", white=white,
        source="", source_files=(), source_sha256=(), shuffle_seed=0, content_sha256="",
        num_samples={"train": 10, "validation": 0, "test": 0},
    )  # fmt: skip


def scaling(scale=1 / 255, offset=0.0, dtype="float32"):
    return Scaling(np.asarray(scale, dtype), np.asarray(offset, dtype))


def stored_images(num_virtual_ranks, num_samples, feature_shape):
    shape = (num_virtual_ranks, num_samples, np.prod(feature_shape))
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def augmented(strengths, stored, feature_shape, scaling_, step=0, virtual_ranks=None, seed=1):
    """Return the inputs for stored samples after augmentation."""
    rows = np.ones((*stored.shape[:2], stored.shape[2] + 1), scaling_.scale.dtype)
    scaling_.apply(stored, rows[:, :, :-1])
    own = virtual_ranks or range(len(stored))
    augment = Augmenter(strengths, info_of(feature_shape), scaling_, own, stored.shape[1], seed)
    augment(step, rows)
    assert (rows[:, :, -1] == 1).all()
    assert np.isfinite(rows).all()
    return rows[:, :, :-1]


@pytest.mark.parametrize("feature_shape", [(12, 10), (6, 7, 3), (40,)])
def test_without_strengths_nothing_is_changed(feature_shape):
    stored = stored_images(2, 5, feature_shape)
    inputs = augmented(Strengths(), stored, feature_shape, scaling(1, 0))
    np.testing.assert_array_equal(inputs, stored)
    assert not Strengths(elastic_smoothness=2.0, erasing_area=0.1).are_used


@pytest.mark.parametrize("strengths", EACH)
@pytest.mark.parametrize("feature_shape", [(12, 10), (9, 7, 3)])
def test_bits_do_not_depend_on_which_virtual_ranks_run_together(strengths, feature_shape):
    # More images than are deformed at a time, and no multiple of it.
    stored = stored_images(4, 301, feature_shape)
    together = augmented(strengths, stored, feature_shape, scaling(), step=7)
    for parts in ([range(4)], [range(1), range(1, 4)], [range(v, v + 1) for v in range(4)]):
        alone = [
            augmented(strengths, stored[own.start : own.stop], feature_shape, scaling(), 7, own)
            for own in parts
        ]
        assert np.concatenate(alone).tobytes() == together.tobytes()


@pytest.mark.parametrize("strengths", EACH)
def test_seeds_steps_virtual_ranks_and_samples_have_draws_of_their_own(strengths):
    stored = np.broadcast_to(stored_images(1, 1, (12, 10)), (3, 40, 120))
    first = augmented(strengths, stored, (12, 10), scaling())
    all_of_them = [
        first,
        augmented(strengths, stored, (12, 10), scaling(), step=1),
        augmented(strengths, stored, (12, 10), scaling(), step=2**40),
        augmented(strengths, stored, (12, 10), scaling(), seed=2),
    ]
    samples = np.concatenate([each.reshape(-1, 120) for each in all_of_them])
    # Erasing leaves half of them as they are.
    num_same = len(samples) - len(np.unique(samples, axis=0))
    assert num_same < 0.6 * len(samples) if strengths == Strengths(erasing=0.5) else num_same == 0
    again = augmented(strengths, stored, (12, 10), scaling())
    assert again.tobytes() == first.tobytes()


def test_an_augmenter_keeps_nothing_of_the_batches_before():
    info = info_of((12, 10))
    augment = Augmenter(EVERYTHING, info, scaling(), range(2), 30, 1)
    results = []
    for step in (3, 5, 3):
        rows = np.ones((2, 30, 121), np.float32)
        rows[:, :, :-1] = stored_images(2, 30, (12, 10)) / np.float32(255)
        augment(step, rows)
        results.append(rows.tobytes())
    assert results[0] == results[2] != results[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("feature_shape", [(12, 10), (9, 7, 3)])
def test_standardized_images_are_changed_as_plain_ones_are(feature_shape, dtype):
    stored = stored_images(2, 50, feature_shape)
    random = np.random.default_rng(3)
    scale = random.uniform(0.005, 0.1, feature_shape).ravel()
    offset = random.uniform(-3, 3, scale.size)
    tolerance = {"rtol": 1e-3, "atol": 1e-2} if dtype == "float32" else {"rtol": 1e-9}
    for strengths in EACH:
        plain = augmented(strengths, stored, feature_shape, scaling(1.0, 0.0, dtype))
        standardized = augmented(strengths, stored, feature_shape, scaling(scale, offset, dtype))
        np.testing.assert_allclose(standardized, plain * scale + offset, **tolerance)


def test_shifted_in_is_what_a_stored_zero_is_for_the_network():
    stored = np.full((1, 1, 9), 100, np.uint8)
    inputs = augmented(Strengths(shift=1e6), stored, (3, 3), scaling(0.01, -0.5))
    np.testing.assert_array_equal(inputs, np.float32(-0.5))


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_all_channels_of_an_image_move_together(shift):
    gray = stored_images(1, 20, (8, 8))
    colored = np.repeat(gray, 3, axis=2)
    strengths = Strengths(**{**DEFORMING, "shift": shift})
    in_color = augmented(strengths, colored, (8, 8, 3), scaling()).reshape(20, 64, 3)
    in_gray = augmented(strengths, gray, (8, 8), scaling()).reshape(20, 64)
    for channel in range(3):
        np.testing.assert_array_equal(in_color[..., channel], in_gray)


def test_noise_is_measured_where_white_is_one():
    stored = np.full((2, 500, 64), 8, np.uint8)
    rows = np.ones((2, 500, 65), np.float32)
    rows[:, :, :-1] = stored / 16
    Augmenter(Strengths(noise=0.2), info_of((8, 8), white=16), scaling(1 / 16), range(2), 500, 0)(
        0, rows
    )
    noise = rows[:, :, :-1] - 0.5
    assert noise.std() == pytest.approx(0.2, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.005)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.02


def test_noise_on_what_is_no_image_is_measured_in_the_networks_inputs():
    stored = np.full((1, 3000, 2), 50, np.uint8)
    strengths = Strengths(noise=0.5)
    inputs = augmented(strengths, stored, (2,), scaling([0.01, 3.0], [1.0, -2.0]))
    np.testing.assert_allclose(inputs.std(axis=(0, 1)), 0.5, rtol=0.05)
    np.testing.assert_allclose(inputs.mean(axis=(0, 1)), [1.5, 148], atol=0.05)


@pytest.mark.parametrize("feature_shape", [(30,), (2, 28, 28), (4, 4, 4, 3), (8, 8, 2)])
def test_data_that_are_no_images_take_noise_only(feature_shape):
    info = info_of(feature_shape)
    Strengths(noise=0.1).check(info)
    shape = " x ".join(map(str, feature_shape))
    with pytest.raises(UserError, match=rf"sets rotation, erasing, .* some have the shape {shape}"):
        Augmenter(Strengths(rotation=5, noise=0.1, erasing=0.1), info, scaling(), range(1), 4, 0)
    with pytest.raises(UserError, match="sets elastic_strength, "):
        Strengths(elastic_strength=5).check(info)


def test_too_smooth_displacements_are_refused():
    Strengths(elastic_smoothness=1001).check(info_of((8, 8)))
    with pytest.raises(UserError, match="elastic_smoothness is 1001, and can be 1000 pixels"):
        Strengths(elastic_strength=1, elastic_smoothness=1001).check(info_of((8, 8)))


@pytest.mark.parametrize("smoothness", [5e-324, 1e-3, 1000])
def test_displacements_of_any_smoothness_can_be_drawn(smoothness):
    strengths = Strengths(elastic_strength=1e30, elastic_smoothness=smoothness)
    augmented(strengths, stored_images(1, 4, (8, 8)), (8, 8), scaling())


@pytest.mark.parametrize(
    ("strengths", "feature_shape", "num_samples"),
    [
        (Strengths(shift=1.0), (300, 200), 3),
        (Strengths(shift=1.0), (300, 200, 3), 3),
        (Strengths(**DEFORMING), (28, 28), 256),
        (Strengths(elastic_strength=1.0, elastic_smoothness=0.1), (300, 300), 3),
        (Strengths(noise=0.1), (300, 200, 3), 3),
    ],
)
def test_memory_is_estimated(strengths, feature_shape, num_samples):
    info, given = info_of(feature_shape), scaling()
    estimated = augmentation_bytes(strengths, info, num_samples, "float32")
    rows = np.ones((1, num_samples, np.prod(feature_shape) + 1), np.float32)
    tracemalloc.start()
    augment = Augmenter(strengths, info, given, range(1), num_samples, 1)
    augment(0, rows)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.5 * estimated < kept < 1.1 * estimated + 1e6
