"""The benchmark of memory as a user runs it; what it measures is not judged here."""

import json

TINY = ("bench", "memory", "--tiny", "--rounds", "2", "--out", "figures")


def test_data_and_models_are_measured(program):
    temporary = program.folder / "temporary"
    temporary.mkdir()
    done = program(*TINY, TMPDIR=str(temporary))
    assert done.returncode == 0, done.stderr
    # The data sets are gone.
    assert not list(temporary.iterdir())
    folder = program.folder / "figures"
    assert {path.name for path in folder.iterdir()} == {"memory.json", "memory.md", "memory.png"}
    told = json.loads((folder / "memory.json").read_text())
    assert [one["is_in_blocks"] for one in told["data"]] == [False, True]
    for one, megabytes in zip(told["data"], (1, 4), strict=True):
        assert one["num_rows"] == megabytes * 10**6 // 788
        # The last chunk of the file is a whole one.
        assert 0 < one["data_bytes"] - 788 * one["num_rows"] < 2**20
        assert min(one["epoch_s"]["rounds"]) > 0
    kinds = [(one["optimizer"], one["is_saved"], one["network"]) for one in told["models"]]
    assert kinds == [
        (optimizer, is_saved, network)
        for optimizer in ("sgd", "adamw")
        for is_saved in (False, True)
        for network in ("784-8-10", "784-64-64-10")
    ]
    for one in [*told["data"], *told["models"]]:
        assert len(one["uses"]) == 2
        for use in one["uses"]:
            assert 0 < use["imports_bytes"] <= use["setup_bytes"] <= use["peak_bytes"]
        own = [use["peak_bytes"] - use["imports_bytes"] for use in one["uses"]]
        assert one["own_bytes"] == sum(own) / 2
    assert told["environment"]["command"] == (
        "lockstep bench memory --rounds=2 --out=figures --tiny"
    )
    assert "threads per rank 1" in done.stdout


def test_what_will_not_do_is_told_before_the_measuring(program):
    done = program.on_ranks(2, "-m", "lockstep", *TINY)
    assert done.returncode == 2
    assert done.stderr.count("This command runs in one process") == 1
    assert not (program.folder / "figures").exists()
    (program.folder / "figures").write_text("a file")
    done = program(*TINY)
    assert done.returncode == 2
    assert "Can't make the folder figures" in done.stderr
