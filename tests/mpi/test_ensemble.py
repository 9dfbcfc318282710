"""An ensemble's scores on any number of ranks, to the last digit."""

import json

import pytest


@pytest.fixture
def trained(program, digits_file):
    for name, fields in {
        "a": ["--virtual-ranks", "3", "--hidden-widths", "24", "--seed", "1"],
        "b": ["--hidden-widths", "16,12", "--dtype", "float64"],
        "c": ["--virtual-ranks", "2", "--activation", "tanh", "--hidden-widths", "33"],
    }.items():
        done = program("train", "--data", digits_file, "--epochs", "2", "--run-name", name, *fields)
        assert done.returncode == 0, done.stderr


def test_the_number_of_ranks_changes_no_digit(program, trained):
    runs = [f"results/{name}" for name in "abc"]
    command = ["evaluate", *runs, "--split", "validation", "--json"]
    alone = program(*command)
    assert alone.returncode == 0, alone.stderr
    assert json.loads(alone.stdout)["total"] == 180
    for num_ranks in (2, 3, 4):
        told = program.on_ranks(num_ranks, "-m", "lockstep", *command)
        assert told.returncode == 0, told.stderr
        assert told.stdout == alone.stdout


def test_what_won_t_do_is_told_once(program, trained):
    told = program.on_ranks(3, "-m", "lockstep", "evaluate", "results/a", "results/./a")
    assert told.returncode == 2
    assert told.stderr.count("results/a and results/a are the same run") == 1
    assert "Traceback" not in told.stderr
