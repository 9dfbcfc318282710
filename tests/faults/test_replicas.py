"""Silent data corruption is found, not trained on."""

from pathlib import Path

import pytest

FLIP_BIT = Path(__file__).parent / "programs" / "flip_bit.py"
TRAIN = ("train", "--epochs", "4", "--virtual-ranks", "4", "--run-name", "run")
# 64-128-10: where the second layer begins.
SECOND_LAYER = 65 * 128


@pytest.mark.parametrize(
    ("rank", "index", "message"),
    [
        (1, SECOND_LAYER, "in layer 2: rank 1 and ranks 0, 2 don't agree"),
        (0, 17, "in layer 1: rank 0 and ranks 1, 2 don't agree"),
    ],
)
def test_a_flipped_bit_stops_the_run_and_the_last_checkpoint_is_good(
    program, digits_file, rank, index, message
):
    data = ("--data", digits_file)
    options = ("--replica-check-every", "5", "--checkpoint-every-steps", "10")
    done = program.on_ranks(3, FLIP_BIT, rank, 34, index, *TRAIN, *data, *options)
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("Error: ") == 1, done.stderr
    assert f"After step 35 the ranks' replicas of the parameters differ, {message}" in done.stderr
    latest = program.folder / "results/run/checkpoints/latest"
    assert latest.read_text() == "step-00000030.safetensors\n"

    resumed = program("train", "--resume", "results/run")
    assert resumed.returncode == 0, resumed.stderr
    assert program("train", *TRAIN[1:-1], "whole", *data).returncode == 0
    digests = [program.summary(run)["weights_sha256"] for run in ("run", "whole")]
    assert digests[0] == digests[1]


def test_running_statistics_are_compared_too(program, digits_file):
    # 64-128-10 with a gain in the first layer; behind what is trained come its running means.
    statistics = 66 * 128 + 129 * 10
    options = ("--data", digits_file, "--normalization", "batch", "--replica-check-every", "5")
    done = program.on_ranks(2, FLIP_BIT, 1, 34, statistics + 7, *TRAIN, *options)
    assert done.returncode == 1, done.stderr
    assert "After step 35 the ranks' replicas" in done.stderr
    assert "differ, in layer 1: rank 0 and rank 1" in done.stderr


def test_corrupted_parameters_are_never_saved(program, digits_file):
    # No check is due, but one comes with every checkpoint.
    options = ("--data", digits_file, "--replica-check-every", "1000000")
    done = program.on_ranks(2, FLIP_BIT, 1, 30, 17, *TRAIN, *options)
    assert done.returncode == 1
    assert "After step 46 the ranks' replicas" in done.stderr
    latest = program.folder / "results/run/checkpoints/latest"
    assert latest.read_text() == "step-00000023.safetensors\n"


def test_the_comparison_can_be_switched_off(program, digits_file):
    options = ("--data", digits_file, "--replica-check-every", "0")
    done = program.on_ranks(2, FLIP_BIT, 1, 30, 17, *TRAIN, *options)
    assert done.returncode == 0, done.stderr
