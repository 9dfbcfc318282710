"""The comparison of times to an accuracy as a user runs it; what it measures is not judged here."""

import json

from lockstep.data.convert import ConvertOptions, convert

SMALL = ("bench", "accuracy", "--seeds", "2", "--epochs", "3", "--out", "figures")


def test_lockstep_and_scikit_learn_on_the_digits(program, digits_file):
    done = program(*SMALL, "--data", digits_file, "--peers", "scikit-learn")
    assert done.returncode == 0, done.stderr
    folder = program.folder / "figures"
    assert {path.name for path in folder.iterdir()} == {
        "accuracy.json",
        "accuracy.md",
        "accuracy.png",
    }
    told = json.loads((folder / "accuracy.json").read_text())
    assert list(told["curves"]) == ["Lockstep", "scikit-learn"]
    assert all(len(curves) == 2 for curves in told["curves"].values())
    assert told["environment"]["command"] == (
        f"lockstep bench accuracy --data={digits_file} --seeds=2 --epochs=3 "
        "--peers=scikit-learn --out=figures"
    )
    assert done.stdout.count("seeds that reach 98 %") == 1


def test_what_will_not_do_is_told_before_the_training(program, digits_file):
    done = program(*SMALL, "--data", digits_file, "--peers", "per-sample")
    assert done.returncode == 2
    assert "there is no peer 'per-sample'" in done.stderr
    done = program(*SMALL, "--data", "missing.h5")
    assert done.returncode == 2
    assert "missing.h5" in done.stderr
    convert("digits", program.folder / "all.h5", ConvertOptions(validation=0))
    done = program(*SMALL, "--data", "all.h5")
    assert done.returncode == 2
    assert "all.h5 has no validation split" in done.stderr
    assert not (program.folder / "figures").exists()
