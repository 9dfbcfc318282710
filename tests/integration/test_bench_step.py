"""The comparison of step times as a user runs it; what it measures is not judged here."""

import importlib.util
import json

TINY = ("bench", "step", "--tiny", "--rounds", "2", "--steps", "3", "--out", "figures")


def figures(program):
    folder = program.folder / "figures"
    assert {path.name for path in folder.iterdir()} == {"step.json", "step.md", "step.png"}
    return json.loads((folder / "step.json").read_text())


def test_all_that_are_installed_take_part_and_the_others_are_named(program):
    done = program(*TINY)
    assert done.returncode == 0, done.stderr
    told = figures(program)
    assert [one["network"] for one in told["measurements"]] == ["784-8-10", "784-16-8-10"]
    for one in told["measurements"]:
        assert {"products", "Lockstep", "scikit-learn", "per-sample"} <= set(one["step_s"])
        assert set(one["num_steps"].values()) == {3}
        assert [len(rounds) for rounds in one["step_s"].values()] == [2] * len(one["step_s"])
        assert all(step_s > 0 for rounds in one["step_s"].values() for step_s in rounds)
        for name, package in (("PyTorch-eager", "torch"), ("JAX", "jax")):
            is_installed = importlib.util.find_spec(package) is not None
            assert (name in one["step_s"]) == is_installed
            assert (name in one["absent"]) != is_installed
            assert (f"Without {name}: {package} is not installed" in done.stdout) != is_installed
    environment = told["environment"]
    assert environment["versions"]["scikit-learn"] != "none"
    assert environment["command"] == (
        "lockstep bench step --rounds=2 --steps=3 --out=figures --tiny"
    )
    assert "threads per rank 1" in done.stdout


def test_peers_can_be_chosen(program):
    done = program(*TINY, "--peers", "Per-Sample")
    assert done.returncode == 0, done.stderr
    for one in figures(program)["measurements"]:
        assert list(one["step_s"]) == ["products", "Lockstep", "per-sample"]
        assert not one["absent"]


def test_what_will_not_do_is_told_before_the_measuring(program):
    done = program(*TINY, "--peers", "tensorflow")
    assert done.returncode == 2
    assert "there is no peer 'tensorflow'" in done.stderr
    assert not (program.folder / "figures").exists()
    (program.folder / "figures").write_text("a file")
    done = program(*TINY)
    assert done.returncode == 2
    assert "Can't make the folder figures" in done.stderr


def test_several_processes_are_refused(program):
    done = program.on_ranks(2, "-m", "lockstep", *TINY)
    assert done.returncode == 2
    assert done.stderr.count("This command runs in one process") == 1
    assert not (program.folder / "figures").exists()
