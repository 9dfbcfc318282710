"""What is told of a run."""

import json
import time

import pytest

from lockstep.cluster import status
from lockstep.cluster.history import History
from lockstep.cluster.scheduler import JobState
from lockstep.config import Config, to_toml
from lockstep.storage.run_folder import RunFolder, append_json_line, write_json, write_text


@pytest.fixture
def folder(tmp_path):
    """A run of 20 epochs of 4 steps that has done 6 of them, and 2 steps more."""
    folder = RunFolder(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    write_text(folder.config, to_toml(Config()))
    write_json(folder.run, {"dataset": {"num_samples": {"train": 200}}})
    for epoch in range(1, 7):
        line = {"epoch": epoch, "step": 4 * epoch, "epoch_s": 100.0, "samples_per_s": 2.0}
        append_json_line(folder.metrics, line)
    (folder.checkpoints / "step-00000026.safetensors").touch()
    return folder


def told(folder):
    lines = status.status_text(folder).splitlines()
    return {line[:16].strip(): line[16:] for line in lines}


def in_queue(monkeypatch, state):
    class Queue:
        def state(self, _):
            return state

    monkeypatch.setattr(status, "SCHEDULERS", {"slurm": Queue()})


def test_a_running_job_is_told_with_its_expected_end(folder, monkeypatch):
    History(folder).submitted("slurm", "7", by_user=True)
    running = JobState("RUNNING", is_running=True, nodes="node[1-2]", remaining_s=600.0)
    in_queue(monkeypatch, running)
    found = told(folder)
    assert found["State"] == "slurm job 7 is RUNNING on node[1-2] with 10 min 0 s left"
    assert found["Progress"] == "6 of 20 epochs done, step 26 of 80"
    assert found["Rate"] == "2 samples/s, 1 min 40 s per epoch"
    # 54 of 80 steps of 25 s are left.
    end = time.strptime(found["Expected end"].split(",")[0], "%Y-%m-%d %H:%M")
    assert abs(time.mktime(end) - time.time() - 54 * 25) < 120
    assert found["Expected end"].endswith(", in 22 min 30 s")
    assert found["Last checkpoint"].startswith("step-00000026.safetensors, ")


def test_a_waiting_job_is_told_with_its_reason(folder, monkeypatch):
    History(folder).submitted("slurm", "7", by_user=True)
    waiting = JobState("PENDING", is_waiting=True, reason="Priority", start="2026-11-23T00:49:08")
    in_queue(monkeypatch, waiting)
    found = told(folder)
    assert found["State"] == (
        "slurm job 7 is PENDING (Priority) expected to begin 2026-11-23T00:49:08"
    )
    assert found["Expected end"] == "after 22 min 30 s more of training"


def test_a_job_that_is_gone_is_told_with_the_way_to_go_on(folder, monkeypatch):
    History(folder).submitted("slurm", "7", by_user=True)
    in_queue(monkeypatch, None)
    assert f"Go on with: lockstep submit --resume {folder.path}" in told(folder)["State"]


def test_a_job_that_was_ended_is_told_with_the_way_to_go_on(folder, monkeypatch):
    History(folder).started("slurm", "7", 0)
    in_queue(monkeypatch, JobState("CANCELLED"))
    assert told(folder)["State"] == (
        "slurm job 7 is CANCELLED and won't go on by itself. Go on with: "
        f"lockstep submit --resume {folder.path}"
    )


def test_a_run_without_a_job_is_known_by_its_lock(folder):
    assert told(folder)["State"] == "not running (on this host)"
    with folder.lock():
        assert told(folder)["State"] == "training"


def test_a_run_that_has_not_begun_has_little_to_tell(folder):
    folder.metrics.unlink()
    folder.run.unlink()
    next(folder.checkpoints.iterdir()).unlink()
    found = told(folder)
    assert found["Progress"] == "0 of 20 epochs done, step 0"
    assert found["Expected end"] == "known after the first epoch"
    assert found["Last checkpoint"] == "none yet"


def test_a_finished_run_says_so(folder):
    folder.summary.write_text(json.dumps({}))
    found = told(folder)
    assert found["State"] == f"finished; see {folder.summary}"
    assert "Expected end" not in found


def test_a_finished_run_that_is_made_longer_is_in_the_queue(folder, monkeypatch):
    folder.summary.write_text(json.dumps({}))
    History(folder).submitted("slurm", "8", by_user=True)
    in_queue(monkeypatch, JobState("PENDING", is_waiting=True))
    assert told(folder)["State"] == "slurm job 8 is PENDING"
    in_queue(monkeypatch, JobState("COMPLETED"))
    assert told(folder)["State"].startswith("finished")
