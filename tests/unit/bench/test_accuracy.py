import json
from dataclasses import replace

import pytest

from lockstep.bench.accuracy import Watch, measure
from lockstep.bench.accuracy_measurement import AccuracyMeasurement, Curve, reached
from lockstep.bench.accuracy_plot import accuracy_by_time
from lockstep.bench.accuracy_report import content, page, publish
from lockstep.bench.peers.peer import PEERS
from lockstep.data.dataset_file import DatasetFile
from lockstep.train.observers import EpochResult

(SCIKIT_LEARN,) = (peer for peer in PEERS if peer.name == "scikit-learn")


@pytest.fixture
def measurement():
    return AccuracyMeasurement(
        data="mnist",
        network="784-8-10",
        num_parameters=6370,
        global_batch_size=128,
        num_epochs=3,
        learning_rate=0.003,
        num_validation=200,
        # Of 200, 97 % are 194 and 98 % are 196.
        curves={
            "Lockstep": [
                Curve([1.0, 2.0, 3.0], [193, 194, 196]),
                Curve([2.0, 4.0, 6.0], [195, 196, 190]),
            ],
            "JAX": [
                Curve([2.0, 4.0, 6.0], [193, 194, 195]),
                Curve([3.0, 6.0, 9.0], [150, 198, 199]),
            ],
            "scikit-learn": [
                Curve([2.0, 4.0, 6.0], [10, 10, 10]),
                Curve([2.0, 4.0, 6.0], [10, 10, 10]),
            ],
        },
        absent={"PyTorch-eager": "torch is not installed"},
    )


def test_the_first_epoch_that_reaches_the_threshold_counts(measurement):
    assert measurement.seconds_to("Lockstep", 97) == [2.0, 2.0]
    assert measurement.seconds_to("Lockstep", 98) == [3.0, 4.0]
    assert measurement.seconds_to("JAX", 98) == [None, 6.0]
    assert reached([None, 6.0]) == [6.0]


def test_ratios_are_those_of_the_seeds_that_both_got_there(measurement):
    assert measurement.ratios("JAX", 97) == [2.0, 3.0]
    assert measurement.ratios("JAX", 98) == [1.5]
    assert measurement.ratios("scikit-learn", 97) == []
    assert measurement.epoch_s("JAX") == [2.0, 3.0]
    assert measurement.best_accuracies("JAX") == [0.975, 0.995]


def test_the_table_tells_who_gets_there_and_when(measurement, facts):
    assert page(measurement, facts).rows == [
        ["Lockstep", "1.50 s (1.00 to 2.00)",
         "2.00 s (2.00 to 2.00)", "2 of 2", "",
         "3.50 s (3.00 to 4.00)", "2 of 2", "", "98.00 (98.00 to 98.00)"],
        ["JAX", "2.50 s (2.00 to 3.00)",
         "5.00 s (4.00 to 6.00)", "2 of 2", "2.50 (2.00 to 3.00)",
         "6.00 s (6.00 to 6.00)", "1 of 2", "1.50 (1.50 to 1.50)", "98.50 (97.50 to 99.50)"],
        ["scikit-learn", "2.00 s (2.00 to 2.00)",
         "never", "0 of 2", "", "never", "0 of 2", "", "5.00 (5.00 to 5.00)"],
    ]  # fmt: skip


def test_the_notes_tell_what_was_trained_and_who_is_missing(measurement, facts):
    text = page(measurement, facts).text()
    assert "2 trainings of 784-8-10 with ReLU on mnist" in text
    assert "from 0.003 to 0" in text
    assert "the 200 validation samples" in text
    assert "MLPClassifier knows Adam only" in text
    assert "CosineAnnealingLR" not in text
    assert "Without PyTorch-eager: torch is not installed." in text


def test_the_json_holds_every_training_and_what_was_made_of_them(measurement):
    told = json.loads(json.dumps(content(measurement)))
    assert told["curves"]["JAX"][1] == {"seconds": [3.0, 6.0, 9.0], "correct": [150, 198, 199]}
    at98 = told["thresholds"]["98 %"]
    assert at98["JAX"]["seconds"] == [None, 6.0]
    assert at98["JAX"]["times_as_long_as_lockstep"]["rounds"] == [1.5]
    assert at98["scikit-learn"]["times_as_long_as_lockstep"] is None
    assert told["epoch_s"]["Lockstep"]["median"] == 1.5


def test_the_plot_has_a_line_for_each_training(measurement):
    (axes,) = accuracy_by_time(measurement).axes
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) == 3]
    assert len(lines) == 6
    assert list(lines[0].get_ydata()) == [0.965, 0.97, 0.98]
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == ["Lockstep", "JAX", "scikit-learn"]
    # Five percent are not worth the room.
    assert axes.get_ylim()[0] == pytest.approx(0.954)


def test_the_figures_are_published(measurement, facts, tmp_path):
    publish(measurement, facts, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "accuracy.json",
        "accuracy.md",
        "accuracy.png",
    }


class FakePeer:
    """Classifies one sample more after each epoch."""

    def __init__(self, name, log):
        self.name = name
        self._log = log

    def start(self, task):
        self._log.append((self.name, task.config.training.seed))
        self._correct = 0
        self._epoch = task.steps_per_epoch
        return self

    def train(self, num_steps):
        assert num_steps == self._epoch
        self._correct += 1

    def num_correct(self, samples):
        assert len(samples.y) == 180
        return self._correct


def test_all_train_with_one_seed_after_the_other(digits_file, absent_peer, capsys):
    log = []
    peers = [FakePeer("a", log), absent_peer, FakePeer("b", log)]
    with DatasetFile.open(digits_file) as dataset:
        measurement = measure(dataset, peers, num_seeds=2, num_epochs=3)
    # After a warm-up of all of them.
    assert log == [("a", 0), ("b", 0), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert list(measurement.curves) == ["Lockstep", "a", "b"]
    for curves in measurement.curves.values():
        assert len(curves) == 2
        for curve in curves:
            assert len(curve.correct) == 3
            assert curve.seconds == sorted(curve.seconds)
            assert curve.seconds[0] > 0
    assert measurement.curves["a"][1].correct == [1, 2, 3]
    assert measurement.absent == {"absent": "it is away"}
    assert measurement.num_validation == 180
    assert measurement.network == "64-256-10"
    assert "seed 1: Lockstep, a, b" in capsys.readouterr().out


def test_all_that_train_learn_the_digits(digits_file):
    with DatasetFile.open(digits_file) as dataset:
        measurement = measure(dataset, [SCIKIT_LEARN], num_seeds=1, num_epochs=8)
    for name in ("Lockstep", "scikit-learn"):
        assert measurement.best_accuracies(name)[0] > 0.9


def test_lockstep_is_watched_epoch_by_epoch(monkeypatch):
    clock = iter([1.0, 10.0, 12.5, 14.0])
    monkeypatch.setattr("lockstep.bench.accuracy.perf_counter", lambda: next(clock))
    watch = Watch()
    watch.start()
    result = EpochResult(*[0] * 16)
    watch.epoch_done(replace(result, val_correct=7))
    watch.epoch_done(replace(result, val_correct=9))
    assert watch.curve == Curve([2.5, 4.0], [7, 9])
