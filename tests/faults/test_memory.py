"""What doesn't fit into memory is refused at once, by one message, and nothing is left behind."""

from pathlib import Path

import pytest

LITTLE_MEMORY = Path(__file__).parent / "programs" / "little_memory.py"
TRAIN = ("train", "--epochs", "2", "--run-name", "run")
WIDE = ("--hidden-widths", "100000")


def refusal(done):
    """Return the message of a training that was refused, which is the only one."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("Error: Not enough memory: ")
    assert done.stderr.count("Not enough memory") == 1
    assert "Traceback" not in done.stderr
    return done.stderr


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("num_ranks", [1, 3])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--hidden-widths", "1000000,1000000"], "1,000,076,000,010 parameters"),
        (["--hidden-widths", ",".join(["1000000"] * 50)], "parameters 19"),
        (
            ["--virtual-ranks", "1000000", "--global-batch-size", "1000000", *WIDE],
            "global_batch_size is 1000000, virtual_ranks 1000000",
        ),
    ],
)
def test_absurd_sizes_are_refused(program, digits_file, num_ranks, options, told):
    done = program.on_ranks(num_ranks, "-m", "lockstep", *TRAIN, "--data", digits_file, *options)
    assert told in refusal(done)
    assert not (program.folder / "results").exists()


def test_a_host_that_is_short_of_memory_is_named_by_all_ranks_together(program, digits_file):
    words = (*TRAIN, "--data", digits_file, "--hidden-widths", "100", "--virtual-ranks", "3")
    done = program.on_ranks(3, LITTLE_MEMORY, 1, 900_000, *words)
    message = refusal(done)
    assert "ranks 1-2 would take about 1." in message
    assert " MB together, and 0.9 MB are available on small-host.\n" in message
    assert "start fewer ranks on a host" in message
    assert not (program.folder / "results").exists()
    # As much as is needed, and no more, is enough.
    done = program.on_ranks(3, LITTLE_MEMORY, 1, 3_000_000, *words)
    assert done.returncode == 0, done.stderr


def test_a_run_that_is_too_large_to_be_resumed_stays_as_it_is(program, digits_file):
    words = (*TRAIN, "--data", digits_file, "--hidden-widths", "100", "--epochs", "1")
    assert program(*words).returncode == 0
    folder = program.folder / "results" / "run"
    before = contents(folder)
    resume = ("train", "--resume", folder, "--epochs", "2")
    done = program.run([program.python, LITTLE_MEMORY, 0, 900_000, *resume])
    assert "the checkpoint to go on from" in refusal(done)
    assert contents(folder) == before
    assert program(*resume).returncode == 0
