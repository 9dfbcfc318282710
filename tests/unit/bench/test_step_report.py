import json
from dataclasses import replace

import pytest

from lockstep.bench.step_measurement import StepMeasurement
from lockstep.bench.step_plot import step_times
from lockstep.bench.step_report import content, page, publish


@pytest.fixture
def measurement():
    return StepMeasurement(
        network="784-8-10",
        activation="relu",
        num_parameters=6370,
        global_batch_size=32,
        num_flops=800_000,
        num_steps={"products": 9, "Lockstep": 3, "PyTorch-eager": 2, "PyTorch-compiled": 2},
        # The whole machine is slow in the second round, and the ratios don't show it.
        step_s={
            "products": [0.0005, 0.005, 0.0005],
            "Lockstep": [0.001, 0.010, 0.001],
            "PyTorch-eager": [0.002, 0.020, 0.003],
            "PyTorch-compiled": [0.004, 0.001, 0.004],
        },
        num_cores={
            "products": 1.0, "Lockstep": 1.05, "PyTorch-eager": 1.6, "PyTorch-compiled": 1.0,
        },
        absent={"JAX": "jax is not installed"},
    )  # fmt: skip


def test_ratios_are_paired_by_round(measurement):
    assert measurement.ratios("PyTorch-eager") == pytest.approx([2, 2, 3])
    assert measurement.fractions("PyTorch-eager") == pytest.approx([1 / 4, 1 / 4, 1 / 6])
    assert measurement.samples_per_s("PyTorch-eager") == pytest.approx(32 / 0.003)
    assert measurement.flops_per_s("Lockstep") == pytest.approx(800_000 / 0.001)


def test_the_better_mode_of_pytorch_is_that_with_the_lower_median(measurement):
    assert measurement.better_pytorch == "PyTorch-eager"
    assert replace(measurement, step_s={"Lockstep": [1.0]}).better_pytorch is None


def test_the_table_has_a_row_for_each_contestant(measurement, facts):
    other = replace(measurement, network="784-16-10")
    rows = page([measurement, other], facts).rows
    assert rows[:3] == [
        ["784-8-10, 32", "products", "500 µs (500 to 5000)", "", "1.6", "", "0.50 (0.50 to 0.50)"],
        ["", "Lockstep", "1.00 ms (1.00 to 10.00)", "32,000", "0.8", "0.50 (0.50 to 0.50)", ""],
        ["", "PyTorch-eager*", "3.00 ms (2.00 to 20.00)", "10,667", "0.3", "0.25 (0.17 to 0.25)",
         "2.00 (2.00 to 3.00)"],
    ]  # fmt: skip
    assert rows[3][1] == "PyTorch-compiled"
    assert rows[4][0] == "784-16-10, 32"


def test_who_is_missing_and_who_took_more_than_a_core_is_told(measurement, facts):
    other = replace(measurement, network="784-16-10")
    text = page([measurement, other], facts).text()
    assert text.count("Without JAX: jax is not installed.") == 1
    assert "PyTorch-eager used 1.6 cores for 784-8-10, batch 32." in text
    assert "Lockstep used" not in text
    assert "JAX: the steps" not in text
    assert "PyTorch's better mode" in text


def test_the_json_holds_every_round_and_what_was_made_of_them(measurement):
    (told,) = json.loads(json.dumps(content([measurement])))["measurements"]
    assert told["step_s"]["PyTorch-eager"] == [0.002, 0.020, 0.003]
    assert told["step_s_spread"]["Lockstep"] == {
        "median": 0.001, "lowest": 0.001, "highest": 0.010,
    }  # fmt: skip
    assert told["times_as_long_as_lockstep"]["PyTorch-eager"]["median"] == pytest.approx(2)
    assert told["fraction_of_products"]["Lockstep"]["rounds"] == pytest.approx([0.5, 0.5, 0.5])
    assert told["flops_per_s"]["Lockstep"] == pytest.approx(8e8)
    assert told["better_pytorch"] == "PyTorch-eager"
    assert told["absent"] == {"JAX": "jax is not installed"}


def test_the_plot_has_a_panel_for_each_network(measurement):
    measurements = [replace(measurement, network=name) for name in ("a", "b", "c", "d")]
    figure = step_times(measurements)
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left").split("\n")[0] for axes in shown] == ["a", "b", "c", "d"]
    names = [label.get_text() for label in shown[0].get_yticklabels()]
    assert names == list(measurement.step_s)
    # Every round is a dot at its ratio to Lockstep, and the time stands beside them.
    dots = [line.get_xdata() for line in shown[0].get_lines() if len(line.get_xdata()) == 3]
    assert list(dots[2]) == pytest.approx([2, 2, 3])
    texts = [text.get_text() for text in shown[0].texts]
    assert texts == ["500 µs", "1.00 ms", "3.00 ms", "4.00 ms"]
    low, high = shown[0].get_xlim()
    assert low < 0.1
    assert high > 4


def test_the_figures_are_published(measurement, facts, tmp_path):
    publish([measurement], facts, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"step.json", "step.md", "step.png"}
