from itertools import pairwise

import numpy as np
import pytest

from lockstep.report.scores import confusion_matrix, per_class_scores


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def counts_in(axes):
    return {
        (round(y), round(x)): text.get_text()
        for text in axes.texts
        for x, y in [text.get_position()]
    }


def test_rows_are_true_and_columns_predicted():
    axes = confusion_matrix([[50, 3], [0, 40]], ["cat", "dog"]).axes[0]
    assert counts_in(axes) == {(0, 0): "50", (0, 1): "3", (1, 0): "0", (1, 1): "40"}
    assert labels(axes.xaxis) == labels(axes.yaxis) == ["cat", "dog"]
    assert axes.get_title(loc="left") == "Confusion matrix, test split"
    assert axes.get_xlabel() == "predicted class"
    assert axes.get_ylabel() == "true class"
    # Row 0 is on top.
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_a_few_errors_are_coloured():
    axes = confusion_matrix([[9999, 1], [60, 9940]], ["a", "b"]).axes[0]
    shades = np.asarray(axes.get_images()[0].get_array())
    rare, common = shades[0, 1, :3], shades[1, 0, :3]
    assert rare.min() < 0.97
    assert common.sum() < rare.sum()
    # Errors are reddish, right answers bluish.
    assert common[0] > common[2]
    assert shades[0, 0, 2] > shades[0, 0, 0]


def test_a_perfect_matrix_and_an_empty_row():
    confusion_matrix([[5, 0], [0, 0]], ["a", "b"]).draw_without_rendering()


def test_a_hundred_classes_are_readable_and_leave_zeros_blank():
    counts = np.diag(np.full(100, 100))
    counts[3, 97] = 7
    figure = confusion_matrix(counts.tolist(), [f"class {index}" for index in range(100)])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    texts = counts_in(axes)
    assert len(texts) == 101
    assert texts[3, 97] == "7"
    assert len(labels(axes.yaxis)) == 100
    cell_pixels = axes.get_window_extent().width / 100
    widest = max(text.get_window_extent().width for text in axes.texts)
    assert widest < cell_pixels
    assert min(text.get_fontsize() for text in axes.texts) * figure.dpi / 72 >= 9
    names = axes.get_yticklabels()
    boxes = [name.get_window_extent() for name in names]
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))
    assert names[0].get_fontsize() > 1.5 * axes.texts[0].get_fontsize()
    assert axes.xaxis.label.get_fontsize() > names[0].get_fontsize()


@pytest.mark.parametrize("count", [7, 12345, 1234567])
def test_counts_fit_their_cells(count):
    figure = confusion_matrix([[count] * 12] * 12, [])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert axes.texts[0].get_window_extent().width < axes.get_window_extent().width / 12


def test_labels_are_inside_the_figure_and_apart():
    names = [f"a class of a very long name, number {index}" for index in range(12)]
    figure = confusion_matrix(np.eye(12, dtype=int).tolist(), names)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(left.x1 <= right.x0 for left, right in pairwise(boxes))
    assert all(box.y0 >= 0 for box in boxes)
    assert all(label.get_window_extent().x0 >= 0 for label in axes.get_yticklabels())
    assert labels(axes.xaxis)[11].endswith("11")


def test_dollars_in_a_name_are_no_formula():
    figure = confusion_matrix([[1, 0], [0, 1]], ["$5", r"$\frac$"])
    figure.draw_without_rendering()
    assert labels(figure.axes[0].yaxis) == ["$5", r"$\frac$"]


def score(name, precision, recall, f1):
    return {"class": name, "precision": precision, "recall": recall, "f1": f1, "support": 3}


def test_scores_are_where_they_belong():
    figure = per_class_scores([score("a", 0.5, 0.75, 0.6), score("b", 1.0, 0.9, 0.95)])
    axes = figure.axes[0]
    marks = {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}
    assert marks == {
        "precision": [[0.5, 0], [1.0, 1]],
        "recall": [[0.75, 0], [0.9, 1]],
        "F1": [[0.6, 0], [0.95, 1]],
    }
    assert labels(axes.yaxis) == ["a", "b"]


@pytest.mark.parametrize(
    ("lowest", "begin"), [(0.0, 0), (0.49, 0), (0.5, 0.5), (0.93, 0.9), (0.975, 0.95), (1.0, 0.98)]
)
def test_the_axis_of_scores_begins_at_few_places(lowest, begin):
    axes = per_class_scores([score("a", 1.0, lowest, 1.0)]).axes[0]
    ticks = axes.get_xticks()
    assert ticks[0] == begin
    assert ticks[-1] == 1.0


def test_all_marks_of_a_perfect_class_are_seen():
    figure = per_class_scores([score(name, 1.0, 1.0, 1.0) for name in "ab"])
    figure.draw_without_rendering()
    axes = figure.axes[0]
    # Half of the largest mark, in pixels, has room beyond it.
    mark = max(line.get_markersize() for line in axes.get_lines()) * figure.dpi / 72
    assert axes.get_window_extent().x1 - axes.transData.transform((1.0, 0))[0] > mark / 2
    precision, recall, f1 = axes.get_lines()
    assert precision.get_markerfacecolor() == "none"
    assert recall.get_markersize() < precision.get_markersize() < f1.get_markersize()


def test_of_many_classes_the_worst_is_on_top():
    scores = [score(str(i), 0.5, 0.5, f1) for i, f1 in enumerate([0.9, None, *[0.8] * 28, 0.1])]
    axes = per_class_scores(scores).axes[0]
    names = labels(axes.yaxis)
    assert (names[0], names[1], names[-2], names[-1]) == ("30", "2", "0", "1")
    assert axes.get_title(loc="left") == "Scores by class, the lowest F1 first"
    assert labels(per_class_scores(scores[:30]).axes[0].yaxis) == [str(i) for i in range(30)]


def test_a_class_that_never_occurred_has_no_marks():
    figure = per_class_scores([score("a", None, None, None), score("b", 0.5, 0.5, 0.5)])
    figure.draw_without_rendering()
    assert np.isnan(figure.axes[0].get_lines()[0].get_xdata()[0])
    per_class_scores([score("a", None, None, None)]).draw_without_rendering()


def test_scores_of_a_hundred_classes_do_not_overlap():
    figure = per_class_scores([score(f"class {i}", 0.9, 0.8, 0.85) for i in range(100)])
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(boxes) == 100
    assert all(lower.y1 <= upper.y0 for upper, lower in pairwise(boxes))
