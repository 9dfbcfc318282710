"""Mutated configurations, data sets and checkpoints: each is accepted, or refused by a message.

They are parsed in another process, because the HDF5 library itself may crash.
`LOCKSTEP_SOAK_FUZZ=1 pytest tests/faults/test_fuzz.py` takes 100,000 configurations and 20,000
files instead of 1,000 and 300. `LOCKSTEP_LEDGER` names a file that each test appends its counts
to, as a line of JSON.
"""

import collections
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
import pytest
import tomli_w
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from lockstep.config import FIELDS, Config, load_config, option_name
from lockstep.data.dataset_writer import Header, create_dataset_file
from lockstep.parallel.single import SingleProcess
from lockstep.storage import checkpoint as checkpoints
from lockstep.storage.checkpoint import CheckpointStore
from lockstep.storage.run_folder import write_safetensors
from lockstep.train.run import run_training

IS_SOAK = os.environ.get("LOCKSTEP_SOAK_FUZZ") == "1"
NUM_CONFIGURATIONS = 100_000 if IS_SOAK else 1000
NUM_DATASETS = 14_000 if IS_SOAK else 200
NUM_CHECKPOINTS = 6000 if IS_SOAK else 100
# Hypothesis keeps in mind what it has drawn, so it begins anew now and then.
BATCH = 1000
LIMIT_S = 20
WORKER = Path(__file__).with_name("programs") / "fuzz_worker.py"
NUM_KEPT = 20


class Worker:
    """A process that parses cases, started again when it dies or hangs."""

    def __init__(self):
        self._process = None

    def judge(self, kind, path):
        """Return the outcome and what there is to say about it."""
        if self._process is None:
            self._start()
        self._process.stdin.write(json.dumps({"kind": kind, "path": str(path)}) + "\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], LIMIT_S)[0]:
            self.close()
            return "hung", f"no answer within {LIMIT_S} s"
        line = self._process.stdout.readline()
        if not line:
            exit_code = self._process.wait()
            self.close()
            return "crashed", f"exit code {exit_code}"
        answer = json.loads(line)
        return answer["outcome"], answer["text"]

    def close(self):
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None

    def _start(self):
        self._process = subprocess.Popen(
            [sys.executable, "-u", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )


def fuzz(kind, num_cases, cases, write, folder):
    """Have so many cases parsed, keep those that go wrong, and tell the counts.

    Parameters
    ----------
    kind : str
        What they are, for the worker.
    num_cases : int
        How many.
    cases : strategy
        Draws one.
    write : callable
        Given a case and a folder, writes the case there and returns what is to be parsed.
    folder : Path
        For the cases.
    """
    counts, kept = collections.Counter(), []
    scratch = folder / "case"
    start_s = time.perf_counter()

    def judge(worker, case):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        path = write(case, scratch)
        outcome, text = worker.judge(kind, path)
        counts[outcome] += 1
        if outcome not in {"accepted", "refused"} and len(kept) < NUM_KEPT:
            copy = folder / f"{kind}-{len(kept)}"
            scratch.rename(copy)
            kept.append(f"{outcome}: {WORKER} {kind} {copy / path.relative_to(scratch)}\n{text}")

    with contextlib.closing(Worker()) as worker:
        for number, first in enumerate(range(0, num_cases, BATCH)):
            run = given(cases)(lambda case: judge(worker, case))
            limits = settings(
                max_examples=min(BATCH, num_cases - first),
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            seed(number)(limits(run))()
    tell(kind, counts, time.perf_counter() - start_s)
    assert not kept, "\n\n".join(["Reproduce with python and these words:", *kept])
    assert sum(counts.values()) == num_cases
    # Else nothing would be shown about one of the two.
    assert counts["accepted"] > num_cases / 100
    assert counts["refused"] > num_cases / 100


def tell(kind, counts, seconds):
    line = {
        "fault": f"mutated {kind}",
        "cases": sum(counts.values()),
        **{outcome: counts[outcome] for outcome in ("accepted", "refused", "crashed", "hung")},
        "wrong": counts["wrong"],
        "seconds": round(seconds, 1),
    }
    print(json.dumps(line))
    if ledger := os.environ.get("LOCKSTEP_LEDGER"):
        with Path(ledger).open("a") as file:
            file.write(json.dumps(line) + "\n")


# ------------------------------------------------------------------------------- bytes of any kind

INTERESTING = [0, 1, 2, 127, 128, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40,
               2**63 - 1, 2**63, 2**64 - 1]  # fmt: skip


def set_bytes(content, where, new):
    content[where : where + len(new)] = new


def flip(content, where, bit):
    content[where] ^= 1 << bit


def set_number(content, where, number, width):
    set_bytes(content, where, (number % 2 ** (8 * width)).to_bytes(width, "little"))


def insert(content, where, new):
    content[where:where] = new


def remove(content, where, length):
    del content[where : where + length]


def truncate(content, where):
    del content[where:]


def repeat(content, where, length, to):
    set_bytes(content, to % len(content), bytes(content[where : where + length]))


# Headers come first, and are small.
widths = st.sampled_from([1, 2, 4, 8])
places = st.one_of(st.integers(0, 300), st.integers(0, 3000), st.integers(0, 2**20))
byte_changes = st.one_of(
    st.tuples(st.just(flip), places, st.integers(0, 7)),
    st.tuples(st.just(set_bytes), places, st.binary(min_size=1, max_size=8)),
    st.tuples(st.just(set_number), places, st.sampled_from(INTERESTING), widths),
    st.tuples(st.just(insert), places, st.binary(min_size=1, max_size=40)),
    st.tuples(st.just(remove), places, st.integers(1, 40)),
    st.tuples(st.just(truncate), places),
    st.tuples(st.just(repeat), places, st.integers(1, 300), places),
)  # fmt: skip


def change_bytes(content, changes):
    content = bytearray(content)
    for change, where, *parameters in changes:
        if content:
            change(content, where % len(content), *parameters)
    return bytes(content)


# ------------------------------------------------------------------------------- configurations

words = st.text(st.characters(codec="utf-8"), max_size=12)
numbers = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([0, -1, 10**30, 10**400, 2**63, 2**63 - 1, 2**53]),
    st.floats(),
)
leaves = st.one_of(numbers, st.booleans(), words, st.dates(), st.times(), st.datetimes())
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
sections = st.sampled_from([*asdict(Config()), "x"])
names = st.one_of(st.sampled_from(list(FIELDS)), words)
texts = st.one_of(values.map(str), words)
# What no writer of TOML would write.
odd_lines = st.one_of(
    st.integers(1, 3000).map(lambda depth: "a = " + "[" * depth + "]" * depth),
    st.integers(1, 3000).map(lambda depth: "a = " + "{a = " * depth + "1" + "}" * depth),
    st.integers(1, 3000).map(lambda depth: "training.epochs" + ".a" * depth + " = 1"),
    st.integers(1, 9000).map(lambda digits: "epochs = " + "9" * digits),
    st.integers(1, 9000).map(lambda digits: "epochs = 0x" + "f" * digits),
    st.integers(1, 20000).map(lambda number: "hidden_widths = [" + "1," * number + "]"),
    st.integers(1, 500).map(lambda number: "\n".join(f"k{i} = {i}" for i in range(number))),
    st.integers(1, 90000).map(lambda size: "data = '" + "x" * size + "'"),
)


def set_field(content, section, name, value):
    if isinstance(content.get(section, {}), dict):
        content.setdefault(section, {})[name] = value


def set_fitting(content, name, value):
    set_field(content, FIELDS[name].section, name, value)


def set_section(content, section, value):
    content[section] = value


def drop_section(content, section):
    content.pop(section, None)


fields = st.sampled_from(sorted(FIELDS))
content_changes = st.one_of(
    st.tuples(st.just(set_fitting), fields, values),
    st.tuples(st.just(set_fitting), fields, st.integers(0, 100) | st.floats(0, 1)),
    st.tuples(st.just(set_field), sections, names, values),
    st.tuples(st.just(set_section), sections | words, values),
    st.tuples(st.just(drop_section), sections),
)
configurations = st.tuples(
    st.lists(content_changes, max_size=3),
    st.lists(byte_changes, max_size=2) | st.just([]),
    odd_lines | st.just("") | st.just("") | st.just(""),
    st.dictionaries(st.one_of(fields, fields.map(option_name), words), texts, max_size=2)
    | st.just({}),
)


def write_configuration(case, folder):
    changes, changed_bytes, odd, options = case
    content = asdict(Config())
    for change, *parameters in changes:
        change(content, *parameters)
    text = tomli_w.dumps(content) + odd + "\n"
    (folder / "run.toml").write_bytes(change_bytes(text.encode(), changed_bytes))
    (folder / "options.json").write_text(json.dumps(options))
    return folder


@pytest.mark.timeout(3000 if IS_SOAK else 300)
def test_any_configuration_is_accepted_or_refused(tmp_path):
    fuzz("config", NUM_CONFIGURATIONS, configurations, write_configuration, tmp_path)


# ------------------------------------------------------------------------------- data sets


def write_dataset(path, feature_shape, dtype, chunk_rows, scale):
    header = Header("d", ("a", "b", "ü"), feature_shape, np.dtype(dtype), "none", 1, "d.csv",
                    ("d.csv",), ("ab" * 32,), 7, chunk_rows)  # fmt: skip
    with create_dataset_file(path, header) as writer:
        for split, num_rows in (("train", 20), ("validation", 6), ("test", 3)):
            x = np.arange(num_rows * np.prod(feature_shape)).reshape(num_rows, *feature_shape) % 100
            writer.write_split(split, [x.astype(dtype)], np.arange(num_rows, dtype=np.int32) % 3)
        writer.finish(scale, 0.0 * scale)


def as_others_write(path, folder, **options):
    """Copy a data set as plain h5py stores it: in the oldest format, which has no checksums."""
    copy = folder / "copy.h5"
    with h5py.File(path) as source, h5py.File(copy, "w", libver="earliest") as file:
        file.attrs.update(source.attrs)
        for name in (f"{split}/{part}" for split in source for part in "xy"):
            file.create_dataset(name, data=source[name][()], **options)
    return copy.read_bytes()


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    contents = []
    for feature_shape, dtype, chunk_rows, scale in (
        ((2, 3), "u1", 4, 0.5),
        ((5,), "f4", None, np.ones(5)),
        ((4,), "i8", 1, 1.0),
    ):
        path = folder / "d.h5"
        write_dataset(path, feature_shape, dtype, chunk_rows, scale)
        contents.append(path.read_bytes())
        contents.append(as_others_write(path, folder))
        contents.append(as_others_write(path, folder, chunks=True, compression="gzip"))
    return contents


arrays = st.builds(
    lambda dtype, shape: np.ones(shape, dtype),
    st.sampled_from(["u1", "i4", "i8", ">i4", "f2", "f4", ">f8", "g", "?", "c8", "S3", "V2"]),
    st.one_of(
        st.sampled_from([(20, 2, 3), (20, 5), (20,), (6,), (3,), (0,), ()]),
        st.lists(st.integers(0, 5), max_size=4).map(tuple),
    ),
)  # fmt: skip
storages = st.sampled_from([
    {}, {"chunks": True}, {"compression": "gzip"}, {"compression": "lzf"}, {"shuffle": True},
    {"fletcher32": True}, {"scaleoffset": 4}, {"fillvalue": 3}, {"track_times": True},
])  # fmt: skip
members = st.sampled_from([f"{split}{part}" for split in ("train", "validation", "test")
                           for part in ("", "/x", "/y")])  # fmt: skip
attribute_names = st.sampled_from([
    "format", "format_version", "name", "class_names", "feature_shape", "scale", "offset", "white",
    "image_form", "source", "source_files", "source_sha256", "shuffle_seed", "content_sha256", "x",
])  # fmt: skip
attribute_values = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.integers(0, 10),
    st.floats(),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12),
    st.lists(st.text("abü/.", max_size=5), min_size=1, max_size=4),
    st.lists(st.integers(-3, 2**40), max_size=5),
    st.lists(st.floats(), max_size=6),
    st.binary(min_size=1, max_size=5).filter(lambda text: b"\0" not in text),
    st.sampled_from([h5py.Empty("f4"), np.longdouble(3), np.float16(1), h5py.SoftLink]),
    arrays,
)


def set_attribute(file, name, value):
    file.attrs[name] = file.ref if value is h5py.SoftLink else value


def drop_attribute(file, name):
    file.attrs.pop(name, None)


def set_member(file, name, array, storage):
    file.pop(name, None)
    file.create_dataset(name, data=array, **storage)


def set_link(file, name, target, link):
    file.pop(name, None)
    file[name] = link(target)


def external_link(source):
    return h5py.ExternalLink(source, "/train")


def set_huge(file, name, num_rows, chunk_rows):
    shape = (2, 3) if name.endswith("x") else ()
    file.pop(name, None)
    chunks = (chunk_rows, *shape)
    file.create_dataset(name, (num_rows, *shape), "u1" if shape else "i4", chunks=chunks)


def set_virtual(file, name, source):
    layout = h5py.VirtualLayout((20, 2, 3), "u1")
    layout[:] = h5py.VirtualSource(source, "train/x", (20, 2, 3))
    file.pop(name, None)
    file.create_virtual_dataset(name, layout)


def set_external(file, name, source):
    file.pop(name, None)
    file.create_dataset(name, (20, 2, 3), "u1", external=[(source, 0, 120)])


def hard_link(file, name, target):
    split, _, part = target.partition("/")
    if part and isinstance(file.get(split, getlink=True), h5py.HardLink):
        file.pop(name, None)
        file[name] = file[split]


# Whoever opens the pipe waits for ever.
sources = st.sampled_from(["pipe", "pipe", "/etc/passwd", "."])
file_changes = st.one_of(
    st.tuples(st.just(set_attribute), attribute_names, attribute_values),
    st.tuples(st.just(drop_attribute), attribute_names),
    st.tuples(st.just(set_member), members, arrays, storages),
    st.tuples(st.just(set_link), members, members, st.just(h5py.SoftLink)),
    st.tuples(st.just(set_link), members, sources, st.just(external_link)),
    st.tuples(st.just(set_huge), members, st.integers(0, 2**50), st.integers(1, 2**20)),
    st.tuples(st.just(set_virtual), members, sources),
    st.tuples(st.just(set_external), members, sources),
    st.tuples(st.just(hard_link), members, members),
)  # fmt: skip
dataset_cases = st.tuples(
    st.integers(0, 8),
    st.lists(file_changes, max_size=2),
    st.lists(byte_changes, max_size=4) | st.just([]),
)


def write_mutated_dataset(datasets, case, folder):
    number, changes, changed_bytes = case
    path = folder / "d.h5"
    path.write_bytes(datasets[number])
    os.mkfifo(folder / "pipe")
    if changes:
        with h5py.File(path, "r+") as file:
            for change, *parameters in changes:
                # Not everything can be written, or comes after everything else.
                with contextlib.suppress(Exception):
                    change(file, *parameters)
    path.write_bytes(change_bytes(path.read_bytes(), changed_bytes))
    return path


@pytest.mark.timeout(3000 if IS_SOAK else 300)
def test_any_data_set_is_accepted_or_refused(tmp_path, datasets):
    def write(case, folder):
        return write_mutated_dataset(datasets, case, folder)

    fuzz("dataset", NUM_DATASETS, dataset_cases, write, tmp_path)


# ------------------------------------------------------------------------------- checkpoints


@pytest.fixture(scope="module")
def trained(digits_file, tmp_path_factory):
    """Return a small checkpoint as a training has written it, and its bytes."""
    options = {"hidden_widths": "3", "epochs": "2", "data": str(digits_file)}
    folder = tmp_path_factory.mktemp("trained")
    run = run_training(load_config(None, options), SingleProcess(), folder, "run", quiet=True)
    store = CheckpointStore(run.folder.checkpoints)
    newest = (run.folder.checkpoints / "latest").read_text().strip()
    return store.load("latest"), (run.folder.checkpoints / newest).read_bytes()


fact_names = st.sampled_from([
    "config", "widths", "activation", "loss", "class_names", "feature_shape", "image_form", "white",
    "dataset_sha256", "virtual_ranks", "step", "epoch", "best_step", "best_epoch", "best_correct",
    "best_loss", "loss_sum", "spent_s", "wall_time_s", "x",
])  # fmt: skip
facts = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
array_names = st.sampled_from([
    "layers.0.weight", "layers.0.bias", "layers.1.weight", "layers.1.bias", "input.scale",
    "input.offset", "optimizer.first_moment", "best.0.weight", "layers.2.weight", "x",
])  # fmt: skip
small_arrays = st.builds(
    lambda dtype, shape: np.ones(shape, dtype),
    st.sampled_from(["u1", "f2", "f4", "f8", "?"]),
    st.sampled_from([(64, 3), (3,), (3, 10), (10,), (64,), (), (0,), (241,), (1, 1, 1)]),
)


def set_fact(facts, _arrays, name, value):
    facts[name] = value


def drop_fact(facts, _arrays, name):
    facts.pop(name, None)


def nest_fact(facts, _arrays, name, depth):
    for _ in range(depth):
        facts[name] = [facts.get(name)]


def set_array(_facts, arrays, name, array):
    arrays[name] = array


def drop_array(_facts, arrays, name):
    arrays.pop(name, None)


checkpoint_changes = st.one_of(
    st.tuples(st.just(set_fact), fact_names, facts),
    st.tuples(st.just(drop_fact), fact_names),
    st.tuples(st.just(nest_fact), fact_names, st.integers(1, 300)),
    st.tuples(st.just(set_array), array_names, small_arrays),
    st.tuples(st.just(drop_array), array_names),
)
right_pointer = st.just("step-00000001.safetensors\n")
pointers = st.one_of(
    right_pointer,
    right_pointer,
    right_pointer,
    st.sampled_from(["", "../x", "step-1/../../x", "/etc/passwd", "step-1.safetensors", "."]),
    words,
)
# Every second case is changed so little that some are accepted, whatever is drawn.
checkpoint_cases = st.one_of(
    st.tuples(st.lists(checkpoint_changes, max_size=1), st.just([]), st.just(""), right_pointer),
    st.tuples(
        st.lists(checkpoint_changes, max_size=3),
        st.lists(byte_changes, min_size=1, max_size=4) | st.just([]) | st.just([]),
        st.sampled_from(["", "", "", "[" * 100_000, "{", "NaN", "3", '{"step": 1e999}']),
        pointers,
    ),
)


def write_checkpoint(trained, case, folder):
    changes, changed_bytes, odd_facts, pointer = case
    checkpoint, content = trained
    path = folder / "step-00000001.safetensors"
    if changes or odd_facts:
        facts, arrays = dict(checkpoint.facts), dict(checkpoint.arrays)
        for change, *parameters in changes:
            change(facts, arrays, *parameters)
        text = odd_facts or json.dumps(facts)
        # Signed as if Lockstep had written it, or nothing would be read of it.
        digest = checkpoints._digest(arrays, f"1{text}")  # noqa: SLF001
        header = {
            "format": "lockstep-checkpoint",
            "format_version": "1",
            "facts": text,
            "content_sha256": digest,
        }
        write_safetensors(path, arrays, header)
        content = path.read_bytes()
    path.write_bytes(change_bytes(content, changed_bytes))
    (folder / "latest").write_text(pointer)
    return folder


@pytest.mark.timeout(3000 if IS_SOAK else 300)
def test_any_checkpoint_is_accepted_or_refused(tmp_path, trained):
    def write(case, folder):
        return write_checkpoint(trained, case, folder)

    fuzz("checkpoint", NUM_CHECKPOINTS, checkpoint_cases, write, tmp_path)
