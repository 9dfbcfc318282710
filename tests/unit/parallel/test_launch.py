"""What the environment promises, and how ranks are started."""

import sys

import pytest

from lockstep.errors import UserError
from lockstep.parallel.launch import Launch, launched_as


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"PMI_RANK": "2", "PMI_SIZE": "4"}, (2, 4)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3"}, (1, 3)),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8"}, (3, 8)),
        # A batch script is no rank, and neither is what it starts without srun.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, (0, 1)),
    ],
)
def test_the_launchers_promise_is_read_from_the_environment(environment, expected):
    assert launched_as(environment) == expected


def test_ranks_are_spread_evenly_over_hosts():
    launch = Launch.of_options(5, "a, b", "-launcher ssh -x 'two words'")
    assert launch.hosts == {"a": 2, "b": 3}
    assert launch.options == ("-launcher", "ssh", "-x", "two words")
    assert launch.on_hosts({"b": 3}) == Launch(3, {"b": 3}, launch.options)


@pytest.mark.parametrize(("hosts", "options"), [("a,b,c", ""), ("", "'")])
def test_launches_that_make_no_sense_are_refused(hosts, options):
    with pytest.raises(UserError):
        Launch.of_options(2, hosts, options)


@pytest.mark.parametrize(
    ("library", "words"),
    [
        ("MPICH Version: 5", ["-hosts", "a:1,b:2"]),
        ("Open MPI v5", ["--host", "a:1,b:2", "-x", "LOCKSTEP_STARTED_RANKS"]),
    ],
)
def test_hosts_are_told_in_the_launchers_own_words(monkeypatch, library, words):
    monkeypatch.setattr("lockstep.parallel.launch.library_version", lambda: library)
    monkeypatch.setattr("lockstep.parallel.launch.find_mpiexec", lambda _: "mpiexec")
    command, environment = Launch.of_options(3, "a,b", "").command(["train"], {"OWN": "1"})
    assert command[1 : 1 + len(words)] == words
    assert command[-5:] == ["3", sys.executable, "-m", "lockstep", "train"]
    assert environment["OWN"] == "1"
    assert ("-x" in command) == ("Open MPI" in library)
