import numpy as np
import pytest
from PIL import Image

from lockstep.errors import UserError
from lockstep.report import style
from lockstep.report.images import (
    augmentation_sheet,
    first_layer_weights,
    is_image,
    mistakes,
    sample_sheet,
)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def shown(axes):
    return np.asarray(axes.get_images()[0].get_array())


def make_mistakes(shape, dtype=np.uint8):
    x = np.arange(3 * np.prod(shape)).reshape(3, *shape).astype(dtype)
    return {
        "mistakes.x": x,
        "mistakes.true": np.array([0, 1, 7]),
        "mistakes.predicted": np.array([1, 0, 1]),
        "mistakes.probability": np.array([0.99999, 0.9, 0.5], dtype=np.float32),
        "mistakes.true_probability": np.array([0.0, 0.1, 0.4], dtype=np.float32),
        "mistakes.index": np.array([5, 3, 9]),
    }


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((28, 28), True),
        ((28, 28, 1), True),
        ((32, 32, 3), True),
        ((30,), False),
        ((), False),
        ((2, 28, 28), False),
        ((4, 4, 4, 3), False),
    ],
)
def test_what_is_an_image(shape, expected):
    assert is_image(shape) is expected


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)])
def test_mistakes_say_what_and_how_certainly(shape):
    figure = mistakes(make_mistakes(shape), ["cat", "dog"])
    assert [texts(axes) for axes in figure.axes] == [
        ["✗ dog", ">99.9%", "✓ cat"],
        ["✗ cat", "90.0%", "✓ dog"],
        # A class that has no name has a number.
        ["✗ dog", "50.0%", "✓ 7"],
    ]
    assert shown(figure.axes[0]).shape == (shape if shape[-1] == 3 else (4, 5))
    assert shown(figure.axes[0]).min() == 0.0
    assert shown(figure.axes[2]).max() == 1.0


def test_texts_of_a_mistake_do_not_overlap():
    names = ["Mammals of the woods", "Wombats and marmots"]
    figure = mistakes(make_mistakes((8, 8)), names)
    figure.draw_without_rendering()
    for axes in figure.axes:
        predicted, probability, true = (text.get_window_extent() for text in axes.texts)
        assert predicted.x1 < probability.x0
        assert true.y1 <= predicted.y0
        assert true.x1 <= axes.get_window_extent().x1
        assert probability.y1 < figure.bbox.height


def test_weights_are_symmetric_about_zero():
    weight = np.linspace(-0.5, 2.0, 4 * 20, dtype=np.float32).reshape(4, 20)
    figure = first_layer_weights(weight, (4, 5))
    *units, scale = figure.axes
    assert len(units) == 4
    np.testing.assert_array_equal(shown(units[1]), weight[1].reshape(4, 5))
    low, high = units[0].get_images()[0].get_clim()
    assert low == -high
    assert 1.5 < high <= 2.0
    assert [label.get_text() for label in scale.get_xticklabels()] == [
        f"-{high:.2g}",
        "0",
        f"+{high:.2g}",
    ]


def test_zero_weights_of_colour_images_are_gray():
    weight = np.zeros((2, 4 * 4 * 3), dtype=np.float32)
    weight[1, 0] = 1.0
    figure = first_layer_weights(weight, (4, 4, 3))
    assert (shown(figure.axes[0]) == 0.5).all()
    assert shown(figure.axes[1])[0, 0].tolist() == [1.0, 0.5, 0.5]


def test_weights_of_a_diverged_run():
    weight = np.full((2, 16), np.nan, dtype=np.float32)
    first_layer_weights(weight, (4, 4)).draw_without_rendering()


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 3), (1,), (5,), (300,)])
def test_sample_sheet(tmp_path, shape):
    rng = np.random.default_rng(0)
    x = rng.integers(256, size=(20, *shape), dtype=np.uint8)
    out = tmp_path / "sheet.png"
    num_drawn = sample_sheet(x, rng.integers(3, size=20), ["a", "b", "c"], out)
    assert num_drawn == (20 if len(shape) > 1 else 16)
    with Image.open(out) as sheet:
        sheet.load()
        assert 1000 < sheet.width < 1500
        assert 300 < sheet.height < 1500
    assert list(tmp_path.iterdir()) == [out]


def test_sample_sheet_of_equal_rows(tmp_path):
    sample_sheet(np.ones((2, 4)), [0, 1], [], tmp_path / "sheet.png")


def test_charts_of_rows_have_labelled_ends(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(style, "save", lambda figure, out: figures.append(figure))
    sample_sheet(np.arange(10).reshape(2, 5), [0, 1], [], tmp_path / "sheet.png")
    [figure] = figures
    figure.draw_without_rendering()
    for axes in figure.axes:
        across, up = axes.get_xticklabels(), axes.get_yticklabels()
        assert [label.get_text() for label in across] == ["feature 0", "4"]
        assert [label.get_text() for label in up] == ["min", "max"]
        for label in (*across, *up):
            box = label.get_window_extent()
            assert box.x0 >= 0
            assert box.y0 >= 0


@pytest.mark.parametrize("shape", [(8, 8), (6, 9, 1), (6, 9, 3)])
def test_augmented_versions_stand_beside_their_sample(tmp_path, monkeypatch, shape):
    figures = []
    monkeypatch.setattr(style, "save", lambda figure, out: figures.append(figure))
    images = np.arange(2 * 5 * np.prod(shape)).reshape(2, 5, *shape)
    augmentation_sheet(images, [1, 0], ["cat", "dog"], tmp_path / "sheet.png")
    [figure] = figures
    assert [texts(axes) for axes in figure.axes] == [["dog"], *[[]] * 4, ["cat"], *[[]] * 4]
    lefts, bottoms = zip(*(axes.get_position().min for axes in figure.axes), strict=True)
    assert lefts[:5] == lefts[5:] == tuple(sorted(lefts[:5]))
    np.testing.assert_allclose(bottoms[:5], bottoms[0])
    assert bottoms[5] < bottoms[0]
    # All have one scale, from the darkest of all numbers to the brightest.
    assert shown(figure.axes[0]).min() == 0
    assert shown(figure.axes[9]).max() == 1
    assert shown(figure.axes[5]).min() == pytest.approx(0.5, abs=0.01)


def test_sample_sheet_says_where_it_cannot_write(tmp_path):
    with pytest.raises(UserError, match=r"missing.sheet\.png"):
        sample_sheet(np.ones((2, 4)), [0, 1], [], tmp_path / "missing" / "sheet.png")


def test_a_character_without_a_glyph_is_no_warning(tmp_path):
    sample_sheet(np.ones((1, 4)), [0], ["\U00013000"], tmp_path / "sheet.png")
