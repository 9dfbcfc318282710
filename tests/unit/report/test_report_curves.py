import numpy as np
import pytest

from lockstep.report.contents import points
from lockstep.report.curves import correct_by_epoch, learning_curves, time_per_phase


def metrics(num_epochs=4, **columns):
    return [
        {"epoch": epoch + 1} | {name: values[epoch] for name, values in columns.items()}
        for epoch in range(num_epochs)
    ]


@pytest.fixture
def with_validation():
    return metrics(
        train_loss=[2.0, 1.0, 0.5, 0.4],
        val_loss=[2.1, 1.2, 0.8, 0.9],
        val_accuracy=[0.4, 0.6, 0.9, 0.85],
        val_correct=[40, 60, 90, 85],
        val_total=[100] * 4,
        lr=[0.1, 0.1, 0.01, 0.01],
    )


def lines_of(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}


def test_learning_curves_hold_the_metrics(with_validation):
    loss, accuracy, rate = learning_curves(with_validation).axes
    lines = lines_of(loss)
    assert lines["training"] == [[1, 2.0], [2, 1.0], [3, 0.5], [4, 0.4]]
    assert lines["validation"] == [[1, 2.1], [2, 1.2], [3, 0.8], [4, 0.9]]
    assert accuracy.get_lines()[0].get_ydata().tolist() == [0.4, 0.6, 0.9, 0.85]
    assert rate.get_lines()[0].get_ydata().tolist() == [0.1, 0.1, 0.01, 0.01]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "validation"]


def test_without_validation_there_is_no_accuracy_panel():
    figure = learning_curves(metrics(2, train_loss=[2.0, 1.0], val_loss=[None] * 2, lr=[0.1, 0.1]))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Loss", "Learning rate"]
    assert list(lines_of(figure.axes[0])) == ["training"]


def test_a_diverged_run_has_curves():
    figure = learning_curves(metrics(2, train_loss=[2.0, np.nan], lr=[0.1, 0.1]))
    figure.draw_without_rendering()
    figure = learning_curves(metrics(2, train_loss=[None, None], lr=[0.1, 0.1]))
    figure.draw_without_rendering()


@pytest.mark.parametrize(
    ("losses", "scale"),
    [([2.0, 0.1], "linear"), ([2.0, 0.09], "log"), ([2.0, 0.0], "linear"), ([2.0, 0.01, 0], "log")],
)
def test_a_loss_that_falls_far_has_a_log_scale(losses, scale):
    figure = learning_curves(metrics(len(losses), train_loss=losses, lr=[0.1] * len(losses)))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    assert axes.get_yscale() == scale
    assert axes.get_ylabel() == ("log scale" if scale == "log" else "")
    assert not any("$" in label.get_text() for label in axes.get_yticklabels(which="both"))


@pytest.mark.parametrize("peak", [1e-4, 0.00299, 0.1, 7.0])
def test_ticks_of_the_learning_rate_reach_its_peak(peak):
    rate = learning_curves(metrics(2, train_loss=[1.0, 1.0], lr=[peak, 0.0])).axes[-1]
    ticks = rate.get_yticks()
    assert ticks[0] == 0
    assert peak <= ticks[-1] == rate.get_ylim()[1]
    assert len(ticks) <= 4


def test_epochs_are_whole_numbers(with_validation):
    figure = correct_by_epoch(with_validation, 3)
    figure.draw_without_rendering()
    low, high = figure.axes[0].get_xlim()
    ticks = [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high]
    assert ticks == [1, 2, 3, 4]


def test_the_best_epoch_is_marked(with_validation):
    axes = correct_by_epoch(with_validation, 3).axes[0]
    curve, best = axes.get_lines()
    assert curve.get_ydata().tolist() == [40, 60, 90, 85]
    assert best.get_xydata().tolist() == [[3, 90]]
    assert axes.get_title(loc="right") == "best: epoch 3, 90 / 100"
    assert axes.get_title(loc="left") == "Correctly classified validation samples by epoch"


def test_epochs_without_validation_leave_no_gap():
    sparse = metrics(3, val_correct=[4, None, 6], val_total=[10, None, 10])
    assert correct_by_epoch(sparse, None).axes[0].get_lines()[0].get_xydata().tolist() == [
        [1, 4],
        [3, 6],
    ]


def test_phases_are_stacked_up_to_the_whole_epoch():
    figure = time_per_phase(
        metrics(
            2,
            epoch_s=[10.0, 8.0],
            compute_s=[6.0, 5.0],
            reduce_s=[1.0, 1.0],
            update_s=[1.0, 0.5],
            data_s=[0.5, 0.5],
            evaluation_s=[1.0, 0.5],
        )
    )
    axes = figure.axes[0]
    tops = {patch.get_label().split()[0]: patch.get_data().values for patch in axes.patches}
    assert list(tops) == ["compute", "reduce", "update", "data", "evaluation", "other"]
    np.testing.assert_allclose(tops["reduce"], [7.0, 6.0])
    np.testing.assert_allclose(tops["other"], [10.0, 8.0])
    labels = [text.get_text().split() for text in axes.get_legend().get_texts()]
    assert labels[0] == ["other", "5.6%"]
    assert labels[-1] == ["compute", "61.1%"]


def test_short_epochs_are_in_milliseconds():
    axes = time_per_phase(metrics(2, epoch_s=[0.02, 0.03], compute_s=[0.01, 0.01])).axes[0]
    assert axes.get_ylabel() == "milliseconds"
    np.testing.assert_allclose(axes.patches[0].get_data().values, [10, 10])
    np.testing.assert_allclose(axes.patches[-1].get_data().values, [20, 30])


def test_of_thousands_of_epochs_the_means_are_drawn():
    epoch_s = [1.0 if epoch % 2 else 3.0 for epoch in range(1001)]
    axes = time_per_phase(metrics(1001, epoch_s=epoch_s)).axes[0]
    values, edges, _ = axes.patches[-1].get_data()
    assert axes.get_ylabel() == "seconds, mean of 4 epochs"
    assert values.tolist() == [2.0] * 250 + [3.0]
    assert edges[[0, 1, -2, -1]].tolist() == [0.5, 4.5, 1000.5, 1001.5]


def test_lower_phases_are_in_front():
    axes = time_per_phase(metrics(1, epoch_s=[3.0], compute_s=[1.0])).axes[0]
    orders = [patch.get_zorder() for patch in axes.patches]
    assert orders == sorted(orders, reverse=True)


def test_phases_of_one_epoch_without_details_are_other():
    axes = time_per_phase(metrics(1, epoch_s=[3.0])).axes[0]
    assert axes.patches[-1].get_data().values.tolist() == [3.0]
    assert axes.patches[0].get_data().values.tolist() == [0.0]


def test_phases_never_add_up_to_less_than_nothing():
    axes = time_per_phase(metrics(1, epoch_s=[1.0], compute_s=[1.001])).axes[0]
    top, compute = axes.patches[-1], axes.patches[0]
    assert top.get_data().values.tolist() == compute.get_data().values.tolist()


def test_points_leave_out_what_is_missing():
    epochs, values = points([{"epoch": 1, "a": None}, {"epoch": 2, "a": 0.0}, {"epoch": 3}], "a")
    assert epochs.tolist() == [2]
    assert values.tolist() == [0.0]


def test_a_flat_line_is_not_magnified_and_the_axis_ends_at_what_is_possible():
    metrics = [{"epoch": e, "val_correct": 8, "val_total": 8, "val_accuracy": 1.0} for e in (1, 2)]
    low, high = correct_by_epoch(metrics, 1).axes[0].get_ylim()
    assert low <= 4
    assert 8 <= high < 9
    low, high = learning_curves(metrics).axes[1].get_ylim()
    assert low <= 0.99
    assert 1 <= high < 1.005
