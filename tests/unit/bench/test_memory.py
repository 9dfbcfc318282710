"""Memory by hand-worked numbers, and how it is told."""

import re
import subprocess
import sys
from shutil import disk_usage

import numpy as np
import pytest

from lockstep.bench import memory
from lockstep.bench.case import Case
from lockstep.bench.made_up import write_made_up
from lockstep.bench.memory import Plan, Trial, check_room, needed_bytes, run, with_large_data
from lockstep.bench.memory_child import peak_resident_bytes
from lockstep.bench.memory_measurement import MemoryMeasurement, MemoryUse, slope
from lockstep.bench.memory_report import content, kinds, page
from lockstep.data.dataset_file import DatasetFile
from lockstep.errors import UserError

MB = 10**6


def measurement(num_parameters=1_000_000, peaks=(70, 78, 74), **changes):
    values = {
        "network": "784-8-10",
        "num_parameters": num_parameters,
        "global_batch_size": 32,
        "optimizer": "sgd",
        "num_rows": 100,
        "data_bytes": 500 * MB,
        "budget_bytes": 256 * MB,
        "is_in_blocks": True,
        "is_saved": False,
        "uses": [
            MemoryUse(imports_bytes=50 * MB, setup_bytes=60 * MB, peak_bytes=peak * MB, epoch_s=2.0)
            for peak in peaks
        ],
    }
    return MemoryMeasurement(**{**values, **changes})


def test_medians_of_the_rounds():
    one = measurement()
    assert one.peak_bytes == 74 * MB
    assert one.own_bytes == 24 * MB
    assert one.bytes_per_parameter == 24.0


def test_one_more_parameter_costs_what_does_not_stay_the_same():
    # 10 MB whatever the network, and 12 bytes for each parameter.
    sizes = [measurement(n * MB, [50 + 10 + 12 * n]) for n in (1, 2, 5)]
    assert slope(sizes) == pytest.approx(12.0)


def test_networks_are_told_by_optimizer_and_checkpoints():
    models = [measurement(), measurement(optimizer="adamw", is_saved=True)]
    assert list(kinds(models)) == ["sgd", "adamw, with checkpoints"]


def test_what_is_kept_and_told(facts):
    data = [measurement(), measurement(data_bytes=100 * MB, is_in_blocks=False)]
    models = [measurement(MB, [72]), measurement(2 * MB, [84])]
    told = content(data, models)
    assert told["data"][0]["epoch_s"] == {
        "rounds": [2.0] * 3, "median": 2.0, "lowest": 2.0, "highest": 2.0,
    }  # fmt: skip
    assert [one["own_bytes"] for one in told["models"]] == [22 * MB, 34 * MB]
    assert told["models"][1]["bytes_per_parameter"] == 17.0
    assert told["bytes_per_one_more_parameter"] == {"sgd": pytest.approx(12.0)}
    text = page(data, models, facts).text()
    assert re.search(r"500 +block by block +74 +24 +2.00 s \(2.00 to 2.00\) +4.00", text)
    assert re.search(r"784-8-10 +2,000,000 +sgd +no +84 +34 +17.0", text)
    assert "sgd 12.0" in text


def test_room_on_the_disk_is_looked_at_first(tmp_path, monkeypatch):
    check_room(tmp_path, 1)
    free = disk_usage(tmp_path).free
    with pytest.raises(UserError, match=r"MB free, and the data sets .* TMPDIR="):
        check_room(tmp_path, 2 * free)
    monkeypatch.setattr(memory, "needed_bytes", lambda plan: 2 * free)
    with pytest.raises(UserError, match="MB free"):
        memory.benchmark_memory(memory.TINY_PLAN, 1, tmp_path / "out", "a command")


def test_the_room_that_is_needed():
    plan = Plan((3, 4), Case((8,), 256), 2, (Case((1000,), 32),))
    # The data, 8,192 small rows, two checkpoints of 794,000 weights and two moments, and a bit.
    assert needed_bytes(plan) == 7 * MB + 8192 * 788 + 794_000 * 24 + 10 * MB
    assert with_large_data(plan).data_mb == (3, 4, 2000)


@pytest.mark.parametrize("num_rows", [1, 10_700, 33_333])
def test_made_up_data_are_written_in_parts(tmp_path, num_rows):
    path = tmp_path / "made-up.h5"
    write_made_up(path, num_rows)
    with DatasetFile.open(path) as dataset:
        assert dataset.info.num_samples == {"train": num_rows, "validation": 0, "test": 0}
        x, y = dataset.read("train", num_rows - 1, num_rows)
    assert x.any()
    assert 0 <= y[0] < 10


def test_memory_is_that_of_the_process_itself():
    # What was there before the program began does not count, however large.
    ballast = np.ones(400 * MB, np.uint8)
    code = (
        "from lockstep.bench.memory_child import peak_resident_bytes as peak; before = peak();"
        "block = bytearray(b'x') * 100_000_000; print(before, peak())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    before, after = map(int, done.stdout.split())
    assert before < 300 * MB
    assert 90 * MB < after - before < 120 * MB
    assert peak_resident_bytes() > ballast.nbytes


def test_a_training_that_fails_says_why(tmp_path):
    trial = Trial(Case((8,), 32), "sgd", tmp_path / "none.h5", 2, 1, is_saved=False)
    with pytest.raises(UserError, match=r"none\.h5 has ended with exit code 1 .*none\.h5"):
        run(trial, tmp_path)
