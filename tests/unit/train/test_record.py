"""The run record: checkpoints are written behind the training."""

import json
import threading

import pytest

from lockstep.config import load_config
from lockstep.optim.optimizers import Optimizer
from lockstep.parallel.single import SingleProcess
from lockstep.storage.checkpoint import CheckpointStore
from lockstep.storage.writer import CheckpointWriter
from lockstep.train.requests import Requests
from lockstep.train.run import resume_training, run_training

OPTIONS = {"epochs": "4", "checkpoint_every_steps": "10", "virtual_ranks": "2"}
LIMIT_S = 60


@pytest.fixture
def steps(monkeypatch):
    """Count the steps, and let a test wait for one of them."""
    step = Optimizer.step
    done = threading.Semaphore(0)

    def counting(*arguments):
        step(*arguments)
        done.release()

    monkeypatch.setattr(Optimizer, "step", counting)
    return done


def train(digits_file, folder):
    config = load_config(None, {"data": str(digits_file), **OPTIONS})
    return run_training(config, SingleProcess(), folder, "run")


def patch_saves(monkeypatch, replacement):
    """Let a function see every save but the rehearsal, before it is done."""
    save = CheckpointStore.save
    seen = []

    def patched(store, checkpoint, *, is_best):
        if checkpoint.facts["step"] > 0:
            replacement(checkpoint)
        seen.append(checkpoint.facts["step"])
        return save(store, checkpoint, is_best=is_best)

    monkeypatch.setattr(CheckpointStore, "save", patched)
    return seen


def test_steps_go_on_while_a_checkpoint_is_written(monkeypatch, digits_file, tmp_path, steps):
    overtaken = []

    def wait_for_steps(checkpoint):
        # The disk is so slow that this save takes as long as the next 30 steps.
        if not overtaken:
            last = checkpoint.facts["step"] + 30
            overtaken.extend(steps.acquire(timeout=LIMIT_S) for _ in range(last))

    saved = patch_saves(monkeypatch, wait_for_steps)
    run = train(digits_file, tmp_path)
    assert overtaken
    assert all(overtaken)
    assert run.is_done
    # What came meanwhile was left out, but for the newest; the last is always there.
    assert saved[0] == 0
    assert saved[-1] == run.num_steps
    assert saved == sorted(saved)


def test_the_checkpoint_holds_the_state_of_its_step_and_no_later_one(
    monkeypatch, digits_file, tmp_path, steps
):
    held = {}

    def hold(checkpoint):
        step = checkpoint.facts["step"]
        if not held:
            # While this one is held up, the training changes the arrays that were copied.
            for _ in range(step + 3):
                steps.acquire(timeout=LIMIT_S)
        held[step] = {name: array.tobytes() for name, array in checkpoint.arrays.items()}

    patch_saves(monkeypatch, hold)
    train(digits_file, tmp_path / "slow")
    slow = dict(held)
    monkeypatch.undo()
    checkpoints = []
    monkeypatch.setattr(
        CheckpointWriter, "submit", lambda writer, point, *, is_best: checkpoints.append(point)
    )
    train(digits_file, tmp_path / "never written")
    held = {
        point.facts["step"]: {name: array.tobytes() for name, array in point.arrays.items()}
        for point in checkpoints
    }
    # Which of them are left out on a slow disk is a matter of time.
    assert {min(slow), 92} <= set(slow) <= set(held)
    assert all(slow[step] == held[step] for step in slow)


def test_a_failed_save_ends_the_run_at_once(monkeypatch, digits_file, tmp_path, steps):
    def fail(checkpoint):
        raise OSError(28, "No space left on device")

    patch_saves(monkeypatch, fail)
    with pytest.raises(OSError, match="No space left"):
        train(digits_file, tmp_path)
    assert (tmp_path / "run/checkpoints/latest").read_text() == "step-00000000.safetensors\n"
    num_steps = 0
    while steps.acquire(blocking=False):
        num_steps += 1
    # Not first at the next checkpoint's time, which might be hours away.
    assert 10 <= num_steps < 92


def test_a_failed_rehearsal_ends_the_run_before_its_first_step(
    monkeypatch, digits_file, tmp_path, steps
):
    def fail(*arguments, **options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(CheckpointStore, "save", fail)
    with pytest.raises(OSError, match="Read-only"):
        train(digits_file, tmp_path)
    assert not steps.acquire(blocking=False)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"checkpoint_every_steps": "0"}, {0, 23, 46}),
        ({"checkpoint_every_steps": "10"}, {0, 10, 20, 23, 30, 40, 46}),
        # So small a part of a minute is over after every step.
        ({"checkpoint_every_steps": "0", "checkpoint_every_minutes": "1e-9"}, set(range(47))),
    ],
)
def test_checkpoints_come_by_epochs_steps_and_minutes(
    monkeypatch, digits_file, tmp_path, options, expected
):
    submitted = []
    monkeypatch.setattr(
        CheckpointWriter,
        "submit",
        lambda writer, checkpoint, *, is_best: submitted.append(checkpoint.facts["step"]),
    )
    config = load_config(None, {"data": str(digits_file), **OPTIONS, "epochs": "2", **options})
    run_training(config, SingleProcess(), tmp_path, "run")
    assert set(submitted) == expected


def stopped_run(digits_file, folder, stop_after, **options):
    config = load_config(None, {"data": str(digits_file), **OPTIONS, **options})
    return run_training(config, SingleProcess(), folder, "run", Requests(stop_after))


def newest_facts(folder):
    return CheckpointStore(folder / "run/checkpoints").newest(pytest.fail).facts


def test_a_resumed_epoch_remembers_the_seconds_that_it_took_before(digits_file, tmp_path):
    stopped_run(digits_file, tmp_path, 30)
    before = newest_facts(tmp_path)
    resume_training(tmp_path / "run", {}, SingleProcess(), Requests(stop_after=31))
    after = newest_facts(tmp_path)
    assert before["spent_s"]["total"] > 0
    assert all(after["spent_s"][name] >= spent for name, spent in before["spent_s"].items())
    assert after["wall_time_s"] > before["wall_time_s"]
    resume_training(tmp_path / "run", {}, SingleProcess())
    epochs = [
        json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().split("\n")[:-1]
    ]
    assert epochs[1]["epoch_s"] > after["spent_s"]["total"]


def test_less_patience_ends_a_run_at_an_epochs_end_only(digits_file, tmp_path):
    # Nothing gets better with such a learning rate, so one epoch without progress is soon over.
    options = {"learning_rate": "1e-12", "epochs": "9", "tested_weights": "last"}
    stopped = stopped_run(digits_file, tmp_path, 23 * 4 + 7, **options)
    assert not stopped.is_done
    run = resume_training(tmp_path / "run", {"patience": "1"}, SingleProcess())
    assert run.is_done
    assert run.num_steps == 23 * 5
