"""Hosts that aren't alike: told of by rank and host, or refused."""

import pytest

import lockstep
from lockstep.config import load_config
from lockstep.errors import SharedError
from lockstep.parallel.single import SingleProcess
from lockstep.storage.run_folder import read_json, write_json
from lockstep.train import fingerprint
from lockstep.train.run import resume_training, run_training


def test_numpys_version_is_part_of_what_computes_where_ranks_have_different_ones(monkeypatch):
    monkeypatch.setattr(fingerprint.np, "__version__", "2.4.6")

    class Ranks(SingleProcess):
        other = "2.4.6"

        def gather_texts(self, text):
            return [text, self.other if text == "2.4.6" else text]

    alike = fingerprint.kernels_by_rank(Ranks())
    assert alike[0] == alike[1]
    assert "2.4.6" not in alike[0]
    Ranks.other = "2.0.1"
    before, after = alike[0].split(", NumPy ")
    assert fingerprint.kernels_by_rank(Ranks())[0] == f"{before}, NumPy 2.4.6 {after}"


def test_another_lockstep_is_refused_by_rank_and_host(digits_file, tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "node1")

    class Hosts(SingleProcess):
        def gather_texts(self, text):
            other = text.replace(f'"{lockstep.__version__}"', '"0.0.99"')
            return [text, "node2" if text == "node1" else other]

    config = load_config(None, {"data": str(digits_file)})
    with pytest.raises(SharedError) as error:
        run_training(config, Hosts(), tmp_path / "results", "run")
    assert str(error.value) == (
        "The ranks don't mean the same run:\n"
        f"  version of Lockstep: {lockstep.__version__} on rank 0 (node1), 0.0.99 on rank 1 "
        "(node2)\nGive all of them the same configuration, data and version of Lockstep."
    )
    assert not (tmp_path / "results").exists()


@pytest.fixture
def run(digits_file, tmp_path, capfd):
    """Return a run of one epoch."""
    config = load_config(None, {"data": str(digits_file), "epochs": "1"})
    folder = run_training(config, SingleProcess(), tmp_path, "run", quiet=True).folder
    assert capfd.readouterr().err == ""
    return folder


def resumed(run, capfd):
    resume_training(run.path, {"epochs": "2"}, SingleProcess(), quiet=True)
    return capfd.readouterr().err


def test_a_session_with_what_the_run_began_with_is_nothing_to_tell(run, capfd):
    assert resumed(run, capfd) == ""


def test_a_session_with_another_numpy_is_told_of(run, capfd):
    facts = read_json(run.run)
    (kernel,) = facts["kernels"]
    now, facts["versions"]["numpy"] = facts["versions"]["numpy"], "1.99"
    write_json(run.run, facts)
    assert resumed(run, capfd) == (
        "Warning: the run began with other BLAS kernels, threads or another NumPy: "
        f"{kernel} (NumPy 1.99), and goes on with {kernel} (NumPy {now}). A run that was never "
        "stopped may give other bits.\n"
    )


def test_a_session_with_other_kernels_is_told_of(run, capfd):
    facts = read_json(run.run)
    facts["kernels"] = {"openblas 0.3.1 Prescott, NumPy baseline": 3}
    write_json(run.run, facts)
    told = resumed(run, capfd)
    assert told.count("Warning: ") == 1
    assert "openblas 0.3.1 Prescott, NumPy baseline (NumPy " in told


@pytest.mark.parametrize("missing", ["kernels", "versions"])
def test_a_run_of_an_older_lockstep_that_told_less_is_no_other_one(run, capfd, missing):
    facts = read_json(run.run)
    del facts[missing]
    write_json(run.run, facts)
    assert resumed(run, capfd) == ""
