import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lockstep.errors import UserError
from lockstep.storage.checkpoint import Checkpoint, CheckpointStore, read_checkpoint
from lockstep.storage.run_folder import RunFolder, read_json_lines


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


def test_every_flipped_byte_and_every_truncation_is_noticed(tmp_path):
    path = CheckpointStore(tmp_path).save(checkpoint(1), is_best=False)
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(UserError):
            read_checkpoint(path)
    for length in range(0, len(whole), 29):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError):
            read_checkpoint(path)
    path.write_bytes(whole)
    assert read_checkpoint(path).facts["step"] == 1


def test_other_files_are_refused_by_name(tmp_path):
    save_file({"x": np.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(UserError, match=r"foreign\.safetensors is no checkpoint"):
        read_checkpoint(tmp_path / "foreign.safetensors")
    path = CheckpointStore(tmp_path).save(checkpoint(1), is_best=False)
    header = {"format": "lockstep-checkpoint", "format_version": "99"}
    save_file(load_file(path), path, metadata=header)
    with pytest.raises(UserError, match="newer Lockstep"):
        read_checkpoint(path)


def test_a_pointer_can_lead_nowhere_but_beside_itself(tmp_path):
    store = CheckpointStore(tmp_path)
    with pytest.raises(UserError, match="There is no checkpoint"):
        store.load("latest")
    (tmp_path / "latest").write_text("step-1/../../secret.safetensors\n")
    with pytest.raises(UserError, match="should name a checkpoint beside it"):
        store.load("latest")


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
