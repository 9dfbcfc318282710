import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest

from lockstep.storage.checkpoint import Checkpoint, CheckpointStore
from lockstep.storage.writer import CheckpointWriter

LIMIT_S = 30


class SlowStore:
    """Saves a checkpoint whenever it is let, and notes the steps."""

    def __init__(self):
        self.begun = threading.Semaphore(0)
        self.let = threading.Semaphore(0)
        self.saved = []
        self.errors = {}
        self.threads = set()

    def save(self, checkpoint, *, is_best):
        self.threads.add(threading.current_thread())
        step = checkpoint.facts["step"]
        self.begun.release()
        assert self.let.acquire(timeout=LIMIT_S)
        if step in self.errors:
            raise self.errors[step]
        self.saved.append((step, is_best))


def checkpoint(step):
    return Checkpoint({}, {"step": step})


@pytest.fixture
def store():
    store = SlowStore()
    yield store
    store.let.release(1000)  # so that no thread outlives its test
    for thread in store.threads:
        thread.join(LIMIT_S)


@pytest.fixture
def writer(store):
    return CheckpointWriter(store)


def submit_all(writer, store, steps, best=()):
    """Submit checkpoints, all of them while the first is being written."""
    for step in steps:
        writer.submit(checkpoint(step), is_best=step in best)
        if step == steps[0]:
            assert store.begun.acquire(timeout=LIMIT_S)


@pytest.mark.parametrize(
    ("steps", "best", "written"),
    [
        ([1], [], [1]),
        ([1, 2], [], [1, 2]),
        ([1, 2, 3, 4], [], [1, 4]),
        ([1, 2, 3, 4], [1], [1, 4]),
        ([1, 2, 3, 4], [2], [1, 2, 4]),
        ([1, 2, 3, 4], [4], [1, 4]),
        ([1, 2, 3, 4, 5], [2, 3], [1, 3, 5]),
        ([1, 2, 3, 4, 5], [2, 5], [1, 5]),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [1, 5]),
    ],
)
def test_a_slow_disk_gets_the_newest_and_the_best(writer, store, steps, best, written):
    submit_all(writer, store, steps, best)
    store.let.release(1000)
    writer.flush()
    assert store.saved == [(step, step in best) for step in written]


def test_no_more_than_three_are_held_in_memory(store, writer):
    submitted = []
    for step in range(1, 50):
        found = checkpoint(step)
        submitted.append(weakref.ref(found))
        writer.submit(found, is_best=step % 3 == 0)
        del found
        if step == 1:
            assert store.begun.acquire(timeout=LIMIT_S)
        assert num_alive(submitted) <= 3
    store.let.release(1000)
    writer.close()
    assert num_alive(submitted) == 0


def num_alive(references):
    return sum(reference() is not None for reference in references)


def test_with_a_quick_disk_all_are_written_in_their_order(writer, store):
    store.let.release(1000)
    for step in range(1, 20):
        writer.submit(checkpoint(step), is_best=False)
        writer.flush()
        assert store.saved[-1] == (step, False)
    assert [step for step, _ in store.saved] == list(range(1, 20))
    assert threading.current_thread() not in store.threads


def test_submitting_does_not_wait_and_flushing_does(writer, store):
    submit_all(writer, store, [1, 2, 3])  # would never end if it waited
    flushed = threading.Event()

    def flush():
        writer.flush()
        flushed.set()

    flushing = threading.Thread(target=flush)
    flushing.start()
    store.let.release()
    assert store.begun.acquire(timeout=LIMIT_S)
    assert not flushed.wait(0.1)
    store.let.release()
    flushing.join(LIMIT_S)
    assert flushed.is_set()
    assert store.saved == [(1, False), (3, False)]


class OddError(Exception):
    """Of no kind that anybody expects."""


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OddError("odd")])
@pytest.mark.parametrize("asked", ["submit", "flush", "close"])
def test_an_error_is_raised_once_and_nothing_more_is_written(writer, store, error, asked):
    store.errors[1] = error
    submit_all(writer, store, [1, 2], best=[2])
    store.let.release(1000)
    for thread in list(store.threads):
        thread.join(LIMIT_S)
    ask = {
        "submit": lambda: writer.submit(checkpoint(3), is_best=False),
        "flush": writer.flush,
        "close": writer.close,
    }[asked]
    with pytest.raises(type(error)) as raised:
        ask()
    assert raised.value is error
    if asked != "close":
        writer.submit(checkpoint(4), is_best=True)
    writer.flush()
    writer.close()
    assert store.saved == []


def test_closing_writes_what_waits_and_ends_the_thread(writer, store):
    submit_all(writer, store, [1, 2, 3], best=[2])
    store.let.release(1000)
    writer.close()
    assert store.saved == [(1, False), (2, True), (3, False)]
    for thread in store.threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()
    writer.close()
    with pytest.raises(RuntimeError, match="closed"):
        writer.submit(checkpoint(4), is_best=False)


def test_one_that_was_never_used_closes_too(writer):
    writer.flush()
    writer.close()


def test_only_one_thread_saves_at_a_time(tmp_path):
    class Watched(CheckpointStore):
        num_saving = 0
        most = 0

        def save(self, checkpoint, *, is_best):
            Watched.num_saving += 1
            Watched.most = max(Watched.most, Watched.num_saving)
            time.sleep(0.0005)
            Watched.num_saving -= 1

    writer = CheckpointWriter(Watched(tmp_path))
    for step in range(300):
        writer.submit(checkpoint(step), is_best=False)
        time.sleep(0.001 * (step % 2))
    writer.close()
    assert Watched.most == 1


def test_what_is_written_behind_can_be_loaded(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    writer = CheckpointWriter(store)
    for step in range(1, 30):
        arrays = {"x": np.full(1000, step, np.float32)}
        writer.submit(Checkpoint(arrays, {"step": step, "best_step": 7}), is_best=step == 7)
    writer.close()
    newest = store.newest(warn=pytest.fail)
    assert newest.facts["step"] == 29
    assert (newest.arrays["x"] == 29).all()
    assert store.load("best").facts["step"] == 7


PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from lockstep.storage.checkpoint import Checkpoint, CheckpointStore
from lockstep.storage.writer import CheckpointWriter
writer = CheckpointWriter(CheckpointStore(Path(sys.argv[1])))
for step in (1, 2):
    writer.submit(Checkpoint({"x": np.zeros(5_000_000)}, {"step": step}), is_best=step == 1)
raise SystemExit(7)
"""


def test_a_process_that_fails_ends_and_writes_what_was_submitted(tmp_path):
    folder = tmp_path / "checkpoints"
    done = subprocess.run([sys.executable, "-c", PROGRAM, folder], timeout=60, check=False)
    assert done.returncode == 7
    store = CheckpointStore(folder)
    assert store.newest(warn=pytest.fail).facts["step"] == 2
    assert store.load("best").facts["step"] == 1
