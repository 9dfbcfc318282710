"""The benchmarks as a user runs them; what they measure is not judged here."""

import json

import pytest

TINY = ("bench", "reduction", "--tiny", "--rounds", "2", "--steps", "3", "--out", "figures")


def figures(program):
    folder = program.folder / "figures"
    assert {path.name for path in folder.iterdir()} == {
        "reduction.json",
        "reduction.md",
        "reduction.png",
    }
    return json.loads((folder / "reduction.json").read_text())


def test_the_reduction_on_ranks_that_the_command_starts(program):
    done = program(*TINY, "--ranks", "1,2")
    assert done.returncode == 0, done.stderr
    told = figures(program)
    assert [(one["network"], one["num_ranks"]) for one in told["measurements"]] == [
        ("784-8-10", 1), ("784-16-8-10", 1), ("784-8-10", 2), ("784-16-8-10", 2),
    ]  # fmt: skip
    for one in told["measurements"]:
        assert one["num_steps"] == 3
        assert [len(rounds) for rounds in one["step_s"].values()] == [2, 2, 2]
        assert all(step_s > 0 for rounds in one["step_s"].values() for step_s in rounds)
    ways = told["measurements"][-1]["ways"]
    assert set(ways["none"]) == {"one process"}
    assert not set(ways["ordered"]) & (set(ways["mpi"]) | set(ways["none"]))
    assert all(way.startswith("MPI_") for way in ways["mpi"])
    assert (
        told["environment"]["command"]
        == "lockstep bench reduction --ranks=1,2 --rounds=2 --steps=3 --out=figures --tiny"
    )
    assert "threads per rank 1" in done.stdout
    # The root alone tells the table.
    assert done.stdout.count("ordered / none") == 1


def test_ranks_of_a_launcher_that_are_not_needed_wait(program):
    done = program.on_ranks(3, "-m", "lockstep", *TINY, "--ranks", "2")
    assert done.returncode == 0, done.stderr
    assert {one["num_ranks"] for one in figures(program)["measurements"]} == {2}


def test_one_rank_needs_no_mpi(program):
    # Importing it would end the process with an error.
    (program.folder / "mpi4py.py").write_text("raise ImportError('no MPI library')\n")
    done = program(*TINY, "--ranks", "1", PYTHONPATH=str(program.folder))
    assert done.returncode == 0, done.stderr
    told = figures(program)
    assert told["environment"]["versions"]["mpi"] == "none: single process"
    assert {
        way for one in told["measurements"] for kind in one["ways"].values() for way in kind
    } == {"one process"}
    done = program(*TINY, "--ranks", "2", PYTHONPATH=str(program.folder))
    assert done.returncode == 2
    assert "No MPI library can be loaded" in done.stderr


@pytest.mark.parametrize("ranks", ["0", "two", "1,,2", ""])
def test_numbers_of_ranks_are_checked(program, ranks):
    done = program(*TINY, "--ranks", ranks)
    assert done.returncode == 2
    assert "--ranks" in done.stderr
    assert not (program.folder / "figures").exists()


def test_what_cannot_be_measured_is_told_before_the_measuring(program):
    done = program.on_ranks(2, "-m", "lockstep", *TINY, "--ranks", "1,4")
    assert done.stderr.count("--ranks 1,4 needs 4 ranks, but the launcher has started 2") == 1
    (program.folder / "figures").write_text("a file")
    done = program(*TINY, "--ranks", "1")
    assert done.returncode == 2
    assert "Can't make the folder figures" in done.stderr


def test_augmentation(program):
    command = "bench augmentation --tiny --rounds 2 --steps 3 --out figures"
    done = program(*command.split())
    assert done.returncode == 0, done.stderr
    folder = program.folder / "figures"
    names = {f"augmentation.{kind}" for kind in ("json", "md", "png")}
    assert {path.name for path in folder.iterdir()} == names
    (told,) = json.loads((folder / "augmentation.json").read_text())["measurements"]
    assert (told["network"], told["num_steps"]) == ("784-8-10", 3)
    assert {"none", "affine, elastic", "all"} <= set(told["step_s"])
    assert [len(rounds) for rounds in told["step_s"].values()] == [2] * len(told["step_s"])
    assert "affine, elastic" in done.stdout
