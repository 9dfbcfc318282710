import hashlib
import itertools
import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lockstep.errors import UserError
from lockstep.storage.checkpoint import (
    Checkpoint,
    CheckpointStore,
    NewerCheckpointError,
    read_checkpoint,
)
from lockstep.storage.run_folder import RunFolder, read_json, read_json_lines


def checkpoint(step, value=0.0):
    arrays = {"layers.0.weight": np.full((3, 2), value, np.float32), "layers.0.bias": np.ones(2)}
    return Checkpoint(arrays, {"step": step, "class_names": ["a", "ü"], "best_loss": None})


def test_what_is_loaded_is_what_was_saved(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints")
    path = store.save(checkpoint(12, 0.1), is_best=True)
    assert path.name == "step-00000012.safetensors"
    loaded = store.load("latest")
    assert loaded.facts == checkpoint(12).facts
    np.testing.assert_array_equal(
        loaded.arrays["layers.0.weight"], np.full((3, 2), np.float32(0.1))
    )
    assert loaded.arrays["layers.0.bias"].dtype == np.float64


def test_old_checkpoints_go_and_the_best_one_stays(tmp_path):
    store = CheckpointStore(tmp_path, keep=2)
    for step in range(1, 6):
        store.save(checkpoint(step, step), is_best=step == 2)
    names = sorted(path.name for path in tmp_path.iterdir())
    kept = [f"step-0000000{step}.safetensors" for step in (2, 4, 5)]
    assert names == ["best", "latest", *kept]
    assert store.load("best").facts["step"] == 2
    assert store.load("latest").facts["step"] == 5


def test_the_newest_is_known_by_its_step_and_not_by_its_name(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    for step in (99_999_999, 100_000_000):
        store.save(checkpoint(step), is_best=False)
    assert store.load("latest").facts["step"] == 100_000_000
    assert len(list(tmp_path.glob("step-*"))) == 1


def test_a_save_commits_each_file_before_the_next_and_removes_last(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path)
    store.save(checkpoint(1), is_best=True)
    events = []
    fsync, replace, unlink = os.fsync, os.replace, os.unlink

    def note(event, call, *arguments):
        events.append(event)
        return call(*arguments)

    def kind(descriptor):
        return "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"

    monkeypatch.setattr(os, "fsync", lambda fd: note(f"sync {kind(fd)}", fsync, fd))
    monkeypatch.setattr(os, "replace", lambda a, b: note(f"name {b.name}", replace, a, b))
    monkeypatch.setattr(os, "unlink", lambda a: note(f"remove {a.name}", unlink, a))
    store.save(checkpoint(2), is_best=True)
    names = ("step-00000002.safetensors", "latest", "best")
    commits = [("sync file", f"name {name}", "sync folder") for name in names]
    assert events == [*itertools.chain(*commits), "remove step-00000001.safetensors"]


def test_the_folder_of_the_checkpoints_is_committed_too(tmp_path, monkeypatch):
    synced = set()
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.add(os.fstat(fd).st_ino), fsync(fd)))
    CheckpointStore(tmp_path / "checkpoints").save(checkpoint(1), is_best=False)
    assert tmp_path.stat().st_ino in synced


@pytest.mark.parametrize(
    "array",
    [
        np.float32(1.5) * np.ones(()),
        np.ones((0, 3)),
        np.arange(6.0).reshape(2, 3).T,
        np.arange(3, dtype=">f4"),
        np.array([True, False]),
    ],
    ids=["scalar", "empty", "transposed", "big-endian", "bool"],
)
def test_any_layout_of_an_array_can_be_saved(tmp_path, array):
    store = CheckpointStore(tmp_path)
    store.save(Checkpoint({"x": array}, {"step": 1}), is_best=False)
    loaded = store.load("latest").arrays["x"]
    assert loaded.shape == array.shape
    np.testing.assert_array_equal(loaded, array)


def test_files_of_the_first_version_can_still_be_read(tmp_path):
    path = tmp_path / "step-00000007.safetensors"
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(2)}
    header = {
        "format": "lockstep-checkpoint",
        "format_version": "1",
        "facts": '{"step": 7}',
        "content_sha256": "a4a5b9d7",
    }
    save_file(arrays, path, metadata=header)
    with pytest.raises(UserError, match="is damaged"):
        read_checkpoint(path)
    header["content_sha256"] = "2d44e273d7f71bb35aecee03dc3d134ba5054937c439de17cc8bd9c35b9c87c0"
    save_file(arrays, path, metadata=header)
    assert read_checkpoint(path).facts == {"step": 7}


def assert_damaged(path, content):
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_checkpoint(path)
    assert not isinstance(raised.value, NewerCheckpointError)


def test_every_flipped_byte_is_noticed(tmp_path):
    path = CheckpointStore(tmp_path).save(checkpoint(1), is_best=False)
    whole = path.read_bytes()
    data_start = 8 + int.from_bytes(whole[:8], "little")
    assert whole[data_start - 1 : data_start] == b" ", "the padding should be among the bytes"
    for position, byte in enumerate(whole):
        flips = {0x01, 0xFF, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80}
        # JSON takes more than one character for a space.
        flips |= {0x20 ^ ord(space) for space in "\t\n\r"} if byte == ord(" ") else set()
        for flip in flips:
            flipped = bytes([byte ^ flip])
            assert_damaged(path, whole[:position] + flipped + whole[position + 1 :])
    path.write_bytes(whole)
    assert read_checkpoint(path).facts["step"] == 1


def test_every_truncation_and_every_addition_is_noticed(tmp_path):
    path = CheckpointStore(tmp_path).save(checkpoint(1), is_best=False)
    whole = path.read_bytes()
    for length in range(len(whole)):
        assert_damaged(path, whole[:length])
    for more in (b"\0", b" ", b"\n", whole, whole[-8:], bytes(4096)):
        assert_damaged(path, whole + more)
        assert_damaged(path, more + whole)


def test_the_newest_is_found_whatever_the_pointers_say(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep=9)
    assert store.newest(warn=pytest.fail) is None
    for step in (1, 2, 99_999_999, 100_000_000):
        store.save(checkpoint(step), is_best=step == 1)
    for content in (b"step-00000001.safetensors\n", b"", b"\xff\xfe", b"../x", None):
        for pointer in ("latest", "best"):
            path = tmp_path / "checkpoints" / pointer
            path.unlink() if content is None else path.write_bytes(content)
        assert store.newest(warn=pytest.fail).facts["step"] == 100_000_000
        assert store.load("latest").facts["step"] == 100_000_000


def test_a_pointer_that_is_a_folder_does_not_stop_the_newest(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(checkpoint(1), is_best=False)
    (tmp_path / "latest").unlink()
    (tmp_path / "latest").mkdir()
    assert store.newest(warn=pytest.fail).facts["step"] == 1


def with_best(step, best_step):
    found = checkpoint(step)
    return Checkpoint(found.arrays, {**found.facts, "best_step": best_step})


def test_the_best_one_is_what_the_newest_says_if_it_is_there(tmp_path):
    store = CheckpointStore(tmp_path, keep=9)
    store.save(with_best(1, 1), is_best=True)
    store.save(with_best(2, 2), is_best=False)  # as if killed before `best` was written
    assert store.load("best").facts["step"] == 2  # the save mended it
    (tmp_path / "best").write_text("step-00000001.safetensors\n")
    assert store.newest(warn=pytest.fail).facts["step"] == 2
    assert store.load("best").facts["step"] == 2
    store.save(with_best(3, 77), is_best=False)
    store.newest(warn=pytest.fail)
    assert store.load("best").facts["step"] == 2


def test_damaged_checkpoints_are_set_aside_with_a_word(tmp_path):
    store = CheckpointStore(tmp_path, keep=9)
    paths = [store.save(checkpoint(step), is_best=False) for step in (1, 2, 3, 4)]
    paths[2].write_bytes(paths[2].read_bytes()[:-1])
    paths[3].write_bytes(b"")
    warnings = []
    assert store.newest(warnings.append).facts["step"] == 2
    assert store.load("latest").facts["step"] == 2
    assert [("step-00000004" in w, "step-00000003" in w) for w in warnings] == [
        (True, False),
        (False, True),
    ]
    assert all("is set aside as step-" in w and "before it is used" in w for w in warnings)
    assert (tmp_path / "step-00000004.damaged").read_bytes() == b""
    assert store.newest(warn=pytest.fail).facts["step"] == 2
    CheckpointStore(tmp_path, keep=1).save(checkpoint(3), is_best=False)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"latest", "step-00000003.damaged", "step-00000004.damaged",
                     "step-00000003.safetensors"}  # fmt: skip


def test_nothing_but_damaged_checkpoints_is_no_fresh_start(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(checkpoint(1), is_best=False).write_bytes(b"x")
    for expected_warnings in (1, 0):
        warnings = []
        with pytest.raises(
            UserError, match=r"are damaged.*config\.toml, in a new folder"
        ) as raised:
            store.newest(warnings.append)
        assert str(tmp_path) in str(raised.value)
        assert len(warnings) == expected_warnings


def test_a_newer_lockstep_is_no_damage(tmp_path):
    store = CheckpointStore(tmp_path, keep=9)
    store.save(checkpoint(1), is_best=False)
    path = store.save(checkpoint(2), is_best=False)
    header = {"format": "lockstep-checkpoint", "format_version": "99"}
    save_file(load_file(path), path, metadata=header)
    with pytest.raises(NewerCheckpointError, match="newer Lockstep"):
        store.newest(warn=pytest.fail)
    assert path.exists()


def test_what_killed_saves_leave_behind_is_removed(tmp_path):
    store = CheckpointStore(tmp_path)
    store.save(checkpoint(1), is_best=True)
    stale = {
        ".step-00000002.safetensors.0a1b.tmp",
        ".latest.0a1b.tmp",
        ".best.0a1b.tmp",
        ".tmpaB3xYz",
    }
    for name in (*stale, ".keep", "notes.tmp", "step-notes.safetensors"):
        (tmp_path / name).write_text("")
    store.newest(warn=pytest.fail)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {".keep", "notes.tmp", "step-notes.safetensors",
                     "best", "latest", "step-00000001.safetensors"}  # fmt: skip
    store.save(checkpoint(2), is_best=True)
    assert (tmp_path / "step-notes.safetensors").exists()


def test_the_one_just_written_stays_beside_any_others(tmp_path):
    everything = CheckpointStore(tmp_path, keep=9)
    for step in (1, 7, 8, 9):
        everything.save(checkpoint(step), is_best=step == 1)
    path = CheckpointStore(tmp_path, keep=1).save(checkpoint(5), is_best=False)
    assert path.exists()
    kept = sorted(path.name for path in tmp_path.glob("step-*"))
    assert kept == [f"step-0000000{step}.safetensors" for step in (1, 5, 9)]


def test_pruning_waits_until_the_best_one_is_known(tmp_path):
    store = CheckpointStore(tmp_path, keep=1)
    for step in (1, 2, 3):
        store.save(checkpoint(step), is_best=step == 1)
    (tmp_path / "best").write_bytes(b"\xff garbled")
    store.save(checkpoint(4), is_best=False)
    assert len(list(tmp_path.glob("step-*"))) == 3
    store.save(with_best(5, 1), is_best=False)
    assert store.load("best").facts["step"] == 1
    kept = sorted(path.name for path in tmp_path.glob("step-*"))
    assert kept == ["step-00000001.safetensors", "step-00000005.safetensors"]
    (tmp_path / "best").write_text("")
    store.save(checkpoint(6), is_best=True)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000006.safetensors"]


def test_other_files_are_refused_by_name(tmp_path):
    save_file({"x": np.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match=r"foreign\.safetensors is no checkpoint"):
        read_checkpoint(tmp_path / "foreign.safetensors")
    path = CheckpointStore(tmp_path).save(checkpoint(1), is_best=False)
    header = {"format": "lockstep-checkpoint", "format_version": "99"}
    save_file(load_file(path), path, metadata=header)
    with pytest.raises(UserError, match="newer Lockstep"):
        read_checkpoint(path)


@pytest.mark.parametrize(("element", "size"), [("BF16", 2), ("F8_E4M3", 1)])
def test_types_that_numpy_does_not_have_are_refused(tmp_path, element, size):
    entries = {
        "__metadata__": {"format": "lockstep-checkpoint"},
        "x": {"dtype": element, "shape": [2], "data_offsets": [0, 2 * size]},
    }
    header = json.dumps(entries).encode()
    content = len(header).to_bytes(8, "little") + header + bytes(2 * size)
    assert_damaged(tmp_path / "step-00000001.safetensors", content)


def test_a_pointer_can_lead_nowhere_but_beside_itself(tmp_path):
    store = CheckpointStore(tmp_path)
    with pytest.raises(UserError, match="There is no checkpoint"):
        store.load("latest")
    (tmp_path / "latest").write_text("step-1/../../secret.safetensors\n")
    with pytest.raises(UserError, match="should name a checkpoint beside it"):
        store.load("latest")
    (tmp_path / "latest").write_bytes(b"\xff")
    with pytest.raises(UserError, match="latest is damaged"):
        store.load("latest")


@pytest.mark.parametrize("name", ["latest", "step-00000001.safetensors"])
@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_is_no_plain_file_is_refused(tmp_path, name, kind):
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(checkpoint(1), is_best=True)
    path = tmp_path / "checkpoints" / name
    path.rename(tmp_path / "elsewhere")
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(path)
    with pytest.raises(UserError, match=f"{name} is a link or no file at all"):
        store.load("latest")
    if name == "latest":
        assert store.newest(pytest.fail).facts["step"] == 1
    else:
        with pytest.raises(UserError, match=r"All checkpoints in .* are damaged"):
            store.newest(lambda message: None)
    assert (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "facts",
    ["", "{", "[" * 100_000, "3", "{}", '{"step": -1}', '{"step": "1"}', '{"step": true}',
     f'{{"step": {2**63}}}', f'{{"step": {"9" * 5000}}}', '{"step": 1, "best_step": []}'],
)  # fmt: skip
def test_facts_that_are_none(tmp_path, facts):
    path = tmp_path / "step-00000001.safetensors"
    header = {"format": "lockstep-checkpoint", "format_version": "1", "facts": facts}
    # The digest of no arrays: of the version and the facts alone.
    header["content_sha256"] = hashlib.sha256(f"1{facts}".encode()).hexdigest()
    save_file({}, path, metadata=header)
    with pytest.raises(UserError, match=r"step-00000001.safetensors is damaged: its facts"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"loss": NaN}', "NaN is no JSON"),
        ('{"loss": -Infinity}', "-Infinity is no JSON"),
        ("[1]", "should hold one JSON object"),
        ("", "is damaged"),
    ],
)
def test_json_that_is_none(tmp_path, text, message):
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"run\.json .*{message}"):
        read_json(path)


def test_lines_that_are_no_objects(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n3\n')
    with pytest.raises(UserError, match="a line is no JSON object"):
        read_json_lines(path)


def test_a_run_folder_is_never_shared(tmp_path):
    RunFolder.create(tmp_path / "results" / "one")
    with pytest.raises(UserError, match="two runs never share a folder"):
        RunFolder.create(tmp_path / "results" / "one")
    with pytest.raises(UserError, match="no run folder"):
        RunFolder.open(tmp_path / "results" / "one")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Can't make the folder"):
        RunFolder.create(tmp_path / "file" / "run")


def test_damaged_metrics_are_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epo')
    assert read_json_lines(path) == [{"epoch": 1}]
    path.write_text('{"epoch": 1}\n{"epo\n{"epoch": 3}\n')
    with pytest.raises(UserError, match=r"metrics\.jsonl is damaged"):
        read_json_lines(path)


def test_what_cannot_be_read_at_the_moment_is_left_alone(tmp_path, monkeypatch):
    # A wrong user or a stale file handle is no damage.
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    for step in (1, 2):
        store.save(Checkpoint({"a": np.ones(3)}, {"step": step}), is_best=False)
    before = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    opened = Path.open

    def refuse(path, *arguments, **options):
        if path.name == "step-00000002.safetensors":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"step-00000002.safetensors: Permission denied"):
        store.newest(pytest.fail)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == before
