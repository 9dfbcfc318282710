"""The presets on the real MNIST: what the README says of them."""

import json
from pathlib import Path
from statistics import mean

import pytest

from lockstep.data.convert import convert

pytestmark = pytest.mark.mnist
PRESETS = Path(__file__).parents[2] / "launch" / "presets"


@pytest.fixture
def mnist(program, mnist_folder):
    convert(str(mnist_folder), program.folder / "mnist.h5")
    program.timeout_s = 800  # whole trainings, perhaps on a slow machine
    return program


def train(mnist, preset, name, *options, **environment):
    done = mnist("train", PRESETS / f"{preset}.toml", "--data", "mnist.h5", "--run-name", name,
                 *options, **environment)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return mnist.summary(name)


def seeds(mnist, preset):
    return [train(mnist, preset, f"{preset}-{s}", "--seed", s, "-n", "2") for s in range(5)]


def test_one_digest_on_one_two_and_four_ranks(mnist):
    digests = {
        train(mnist, "original", f"on-{ranks}", "-n", ranks, "--epochs", "3")["weights_sha256"]
        for ranks in (1, 2, 4)
    }
    assert len(digests) == 1


def test_the_original_recognizer_is_reproduced(mnist):
    # Published: 7512 of 10,000 right after the first epoch, 94.62 % on the test set at the end.
    summaries = seeds(mnist, "original")
    assert 0.939 <= mean(summary["test_accuracy"] for summary in summaries) <= 0.95
    for seed in range(5):
        metrics = mnist.folder / "results" / f"original-{seed}" / "metrics.jsonl"
        first = json.loads(metrics.read_text().splitlines()[0])
        assert 0.75 <= first["val_accuracy"] <= 0.84


def test_the_same_widths_trained_well(mnist):
    assert mean(summary["test_accuracy"] for summary in seeds(mnist, "mnist")) >= 0.978


# After a few of its epochs, a preset should have come so far on the test set.
@pytest.mark.parametrize(
    ("preset", "epochs", "accuracy"),
    [("small", 20, 0.977), ("wide", 12, 0.988), ("record", 4, 0.98)],
)
def test_augmented_training(mnist, preset, epochs, accuracy):
    summary = train(mnist, preset, preset, "-n", "2", "--epochs", epochs)
    assert summary["test_accuracy"] >= accuracy
