"""Saves that are cut off anywhere: a whole checkpoint is always there, and the next save works."""

import errno
import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lockstep.storage import run_folder
from lockstep.storage.checkpoint import Checkpoint, CheckpointStore

SAVE = Path(__file__).parent / "programs" / "save.py"
ERRORS = ("ENOSPC", "EIO", "EDQUOT")


def checkpoint(step, size=3000):
    arrays = {"weight": np.full(size, step, np.float32), "bias": np.full(2, step, np.float64)}
    return Checkpoint(arrays, {"step": step})


def step_of(found, size=3000):
    """Return the step of a checkpoint, every element of which must agree."""
    step = found.facts["step"]
    assert {name: a.shape for name, a in found.arrays.items()} == {"weight": (size,), "bias": (2,)}
    assert all((array == step).all() for array in found.arrays.values())
    return step


def newest_step(folder):
    """Return the step of the newest checkpoint; none of them may be damaged."""
    return step_of(CheckpointStore(folder).newest(warn=pytest.fail))


def temporary_files(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def assert_whole(folder):
    """Check a folder in which a checkpoint of step 1 was saved, and one of step 2 perhaps."""
    is_there = (folder / "step-00000002.safetensors").exists()
    assert newest_step(folder) == (2 if is_there else 1)
    store = CheckpointStore(folder)
    assert step_of(store.load("latest")) == (2 if is_there else 1)
    assert step_of(store.load("best")) in {1, 2}
    store.save(checkpoint(3), is_best=True)
    assert newest_step(folder) == 3
    names = {path.name for path in folder.iterdir()}
    assert names == {"best", "latest", "step-00000003.safetensors"}


# Faults within the process, which every system can have.

CALLS = (
    *((os, name) for name in ("open", "fstat", "close", "fsync", "chmod", "replace", "rename")),
    *((os, name) for name in ("unlink", "mkdir")),
    (io, "open"),
    (run_folder, "save_file"),
)


class Fault:
    """Makes one of the calls fail, the one of the given number."""

    def __init__(self, patch, number, error, *, is_done):
        self.number, self.error, self.is_done = number, error, is_done
        self.count = 0
        self.close, self.io_open = os.close, io.open
        for owner, name in CALLS:
            patch.setattr(owner, name, self.wrapped(getattr(owner, name), name))

    def wrapped(self, original, name):
        def call(*arguments, **options):
            if original is self.io_open and "r" in arguments[1]:
                return original(*arguments, **options)  # of `best`, which may be unreadable
            self.count += 1
            is_hit = self.count == self.number + 1
            if is_hit and not self.is_done and name != "close":
                raise OSError(self.error, os.strerror(self.error))
            result = original(*arguments, **options)
            if is_hit:
                if name == "open":
                    # What the failing call opened is nobody's to close.
                    result.close() if hasattr(result, "close") else self.close(result)
                raise OSError(self.error, os.strerror(self.error))
            return result

        return call


def save_with_fault(monkeypatch, folder, number, error=0, *, is_done=False):
    """Return how many calls there were; the one of the given number fails, from 0."""
    with monkeypatch.context() as patch:
        fault = Fault(patch, number, error, is_done=is_done)
        CheckpointStore(folder).save(checkpoint(2), is_best=True)
    return fault.count


@pytest.mark.parametrize("is_done", [False, True], ids=["not-done", "done"])
@pytest.mark.parametrize("error", ERRORS)
def test_any_call_of_a_save_can_fail(monkeypatch, tmp_path, error, is_done):
    number = getattr(errno, error)
    CheckpointStore(tmp_path / "clean").save(checkpoint(1), is_best=True)
    num_calls = save_with_fault(monkeypatch, tmp_path / "clean", -1)
    assert num_calls > 20
    for call in range(num_calls):
        folder = tmp_path / str(call)
        CheckpointStore(folder).save(checkpoint(1), is_best=True)
        with pytest.raises(OSError, match=re.escape(os.strerror(number))) as raised:
            save_with_fault(monkeypatch, folder, call, number, is_done=is_done)
        assert raised.value.errno == number
        assert not temporary_files(folder)
        assert_whole(folder)


def test_any_call_of_the_very_first_save_can_fail(monkeypatch, tmp_path):
    num_calls = save_with_fault(monkeypatch, tmp_path / "clean", -1)
    for call in range(num_calls):
        folder = tmp_path / str(call)
        with pytest.raises(OSError, match="No space left"):
            save_with_fault(monkeypatch, folder, call, errno.ENOSPC)
        is_there = (folder / "step-00000002.safetensors").exists()
        found = CheckpointStore(folder).newest(warn=pytest.fail)
        assert (found is not None) == is_there
        CheckpointStore(folder).save(checkpoint(3), is_best=True)
        assert newest_step(folder) == 3


# Faults of the system: calls that fail in the kernel, processes that are killed, full disks.


class Saver:
    """Saves in child processes of a program that has imported everything already."""

    def __init__(self, process):
        self.process = process

    def start(self, command, folder, *numbers):
        """Return the number of a new process."""
        self.tell(" ".join([command, str(folder), *map(str, numbers)]) + "\n")
        return int(self.process.stdout.readline())

    def once(self, folder, limit=-1, strace=()):
        """Save a checkpoint of step 2 and return the exit code and what strace wrote."""
        child = self.start("once", folder, 2, limit)
        log = folder.parent / "strace.log"
        tracer = attached(child, log, strace) if strace else None
        self.tell("\n")
        exit_code = self.exit_code()
        if tracer:
            tracer.communicate(timeout=60)
        return exit_code, log.read_text() if tracer else ""

    def tell(self, text):
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def exit_code(self):
        return int(self.process.stdout.readline())


def attached(process, log, options):
    """Return a strace that has begun to trace a process, or skip the test."""
    tracer = subprocess.Popen(
        ["strace", "-p", str(process), "-o", log, *options], stderr=subprocess.PIPE, text=True
    )
    told = tracer.stderr.readline()
    if "attached" not in told:
        tracer.communicate(timeout=60)
        os.kill(process, signal.SIGKILL)
        pytest.skip(f"strace can't trace here: {told.strip()}")
    return tracer


@pytest.fixture
def saver():
    with subprocess.Popen(
        [sys.executable, SAVE], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        yield Saver(process)
        process.kill()


@pytest.fixture
def new_folder(tmp_path):
    """Return a function that gives new folders with a checkpoint of step 1."""
    original = tmp_path / "original" / "checkpoints"
    original.parent.mkdir()
    CheckpointStore(original).save(checkpoint(1), is_best=True)
    copies = tmp_path / "copies"

    def new():
        shutil.rmtree(copies, ignore_errors=True)
        return shutil.copytree(original, copies / "checkpoints")

    return new


# Those that allocate memory or read.
LEFT_OUT = {"mmap", "munmap", "mremap", "read", "readlink", "lseek", "ioctl", "fcntl"}
FAULTS = [
    *(f"error={error}" for error in ERRORS),
    "error=EIO:signal=KILL",  # killed before the call
    "signal=KILL",  # killed after it
]


def calls_of_a_save(saver, folder):
    """Return the system calls that touch files: (name, how manieth of it, may it be ignored)."""
    exit_code, log = saver.once(folder, strace=("-e", "trace=%file,%desc"))
    assert exit_code == 0
    counts, calls = {}, []
    for line in log.splitlines():
        name = line.partition("(")[0]
        if re.fullmatch(r"\w+", name) and name not in LEFT_OUT:
            counts[name] = counts.get(name, 0) + 1
            calls.append((name, counts[name], may_be_ignored(name, line)))
    return calls


def may_be_ignored(name, line):
    """Return whether a call only looks, or closes a file; the library ignores what `close` says."""
    if name == "openat" and "O_CREAT" not in line:
        return '/best"' in line or "O_DIRECTORY" in line
    return name in {"close", "getdents64"} or "stat" in name


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.parametrize("fault", FAULTS)
def test_any_system_call_of_a_save_can_fail_or_be_the_last(saver, new_folder, fault):
    calls = calls_of_a_save(saver, new_folder())
    names = [name for name, _, _ in calls]
    assert set(names) >= {"openat", "write", "fsync", "close"}, names
    assert sum(name.startswith("rename") for name in names) >= 3, names
    for name, number, is_ignorable in calls:
        folder = new_folder()
        strace = ("-e", f"trace={name}", "-e", f"inject={name}:{fault}:when={number}")
        exit_code, log = saver.once(folder, strace=strace)
        if "KILL" in fault:
            assert exit_code == -signal.SIGKILL, log
        else:
            assert log.count("INJECTED") == 1, (name, number, log)
            assert exit_code in ({0, 3} if is_ignorable else {3}), (name, number, log)
            assert not temporary_files(folder), (name, number, log)
        if exit_code == 0:
            assert newest_step(folder) == 2
        assert_whole(folder)


def test_a_file_that_can_grow_no_further_fails_the_save(saver, new_folder):
    folder = new_folder()
    assert saver.once(folder)[0] == 0
    length = (folder / "step-00000002.safetensors").stat().st_size
    for limit in [0, 1, 7, 8, 100, 4096, length // 2, length - 1]:
        folder = new_folder()
        assert saver.once(folder, limit=limit)[0] == 3
        assert not temporary_files(folder)
        assert not (folder / "step-00000002.safetensors").exists()
        assert_whole(folder)


def mount(*arguments):
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def small_disk(tmp_path):
    """Return a file system of 160 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not shutil.which("mount"):
        pytest.skip("there is no mount here")
    done = mount("-t", "tmpfs", "-o", "size=160k", "lockstep-test", disk)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_full_disk_fails_the_save_and_nothing_else(small_disk):
    folder, filler = small_disk / "checkpoints", small_disk / "filler"
    page = os.statvfs(small_disk).f_frsize
    outcomes = []
    for num_free in range(40):
        shutil.rmtree(folder, ignore_errors=True)
        CheckpointStore(folder).save(checkpoint(1), is_best=True)
        free = os.statvfs(small_disk).f_bavail
        if num_free >= free:
            break
        filler.write_bytes(bytes((free - num_free) * page))
        try:
            CheckpointStore(folder).save(checkpoint(2), is_best=True)
        except OSError as error:
            outcomes.append(str(error))
            assert not temporary_files(folder)
        else:
            outcomes.append("saved")
        is_there = (folder / "step-00000002.safetensors").exists()
        assert newest_step(folder) == (2 if is_there else 1)
        filler.unlink()
        assert_whole(folder)
    assert "No space left" in outcomes[0]
    assert outcomes[-1] == "saved"


def test_a_disk_that_became_read_only_still_gives_its_checkpoint(small_disk):
    folder = small_disk / "checkpoints"
    CheckpointStore(folder).save(checkpoint(1), is_best=True)
    damaged = CheckpointStore(folder, keep=2).save(checkpoint(2), is_best=False)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    assert mount("-o", "remount,ro", small_disk).returncode == 0
    with pytest.raises(OSError, match="Read-only file system"):
        CheckpointStore(folder).save(checkpoint(3), is_best=True)
    assert not temporary_files(folder)
    warnings = []
    assert step_of(CheckpointStore(folder).newest(warnings.append)) == 1
    assert len(warnings) == 1
    assert "can't be renamed (Read-only file system)" in warnings[0]
    assert mount("-o", "remount,rw", small_disk).returncode == 0
    CheckpointStore(folder).save(checkpoint(3), is_best=True)
    assert newest_step(folder) == 3


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(saver, tmp_path):
    folder = tmp_path / "checkpoints"
    moments = random.Random(1)
    newest = 0
    for _ in range(20):
        child = saver.start("forever", folder, newest + 1)
        time.sleep(moments.uniform(0.01, 0.15))
        os.kill(child, signal.SIGKILL)
        assert saver.exit_code() == -signal.SIGKILL
        store = CheckpointStore(folder)
        committed = store.load("latest").facts["step"] if (folder / "latest").exists() else 0
        found = store.newest(warn=pytest.fail)
        if found is None:
            assert not committed
            continue
        newest = step_of(found, 250_000)
        assert newest >= committed
        assert step_of(store.load("latest"), 250_000) == newest
        assert not temporary_files(folder)
        assert len(list(folder.glob("step-*"))) <= 4
    assert newest > 20
