"""Whether a run's jobs lead anywhere."""

import pytest

from lockstep.cluster.history import History
from lockstep.storage.run_folder import RunFolder


@pytest.fixture
def history(tmp_path):
    return History(RunFolder(tmp_path))


def test_a_new_run_has_none(history):
    assert history.job() is None
    assert not history.stands_still(0, "7")


def test_two_restarts_at_the_same_step_stand_still(history):
    history.submitted("slurm", "7", by_user=True)
    history.started("slurm", "7", 0)
    assert not history.stands_still(0, "7")
    history.started("slurm", "7", 0)
    assert history.stands_still(0, "7")
    assert not history.stands_still(10, "7")
    history.started("slurm", "7", 10)
    assert not history.stands_still(20, "7")
    assert history.stands_still(10, "7")


def test_a_user_who_submits_once_more_begins_anew(history):
    for _ in range(2):
        history.started("slurm", "7", 5)
    assert history.stands_still(5, "7")
    # What the job itself has submitted is a restart; what the user has, is not, by whatever way.
    history.submitted("slurm", "8", by_user=False)
    assert history.stands_still(5, "8")
    history.submitted("slurm", "9", by_user=True)
    assert not history.stands_still(5, "9")
    assert not history.stands_still(5, "10")
    assert history.job()["job"] == "9"
