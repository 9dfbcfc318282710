"""Parses what it is given, as a program of its own that may crash.

Without arguments it takes cases from standard input, each a line of JSON with `kind` and `path`,
and answers each with a line of JSON: `outcome` is "accepted", "refused" or "wrong", `text` says
why. `python fuzz_worker.py KIND PATH` does one.
"""

import json
import os
import resource
import sys
import traceback
import warnings
from pathlib import Path

import numpy as np

from lockstep.config import load_config, to_toml
from lockstep.data.batches import scaling_of
from lockstep.data.dataset_file import SPLITS, DatasetFile
from lockstep.errors import UserError
from lockstep.storage.checkpoint import CheckpointStore
from lockstep.train.model import check_run_facts, checkpoint_snapshot, load_model
from lockstep.train.run import resolve

# What is allocated beyond this was allocated without a look at what the file can hold.
MEMORY_BYTES = 2**32
BLOCK_ROWS = 1000


def parse_config(path):
    """Read a folder's `run.toml` and the command line in `options.json`."""
    options = json.loads((path / "options.json").read_text())
    config = load_config(path / "run.toml", options)
    (path / "again.toml").write_text(to_toml(config))
    assert load_config(path / "again.toml", {}) == config
    resolve(config, 1)


def parse_dataset(path):
    """Read a data set file, all rows of it."""
    with DatasetFile.open(path) as dataset:
        for split in SPLITS:
            num_rows = dataset.info.num_samples[split]
            assert dataset.class_counts(split).sum() == num_rows
            for start in range(0, num_rows, BLOCK_ROWS):
                dataset.read(split, start, min(start + BLOCK_ROWS, num_rows))
        scaling_of(dataset, "float32")
        dataset.check_training_classes()
        dataset.verify()


def parse_checkpoint(path):
    """Read the newest checkpoint of a folder, predict by it, and prepare to go on from it."""
    checkpoint = CheckpointStore(path).load("latest")
    model = load_model(checkpoint)
    with np.errstate(all="ignore"):
        model.probabilities(np.zeros((2, model.network.widths[0]), np.uint8))
    check_run_facts(checkpoint)
    checkpoint_snapshot(checkpoint, model.network)


PARSERS = {"config": parse_config, "dataset": parse_dataset, "checkpoint": parse_checkpoint}


def judge(kind, path):
    try:
        PARSERS[kind](path)
    except UserError as error:
        text = str(error)
        # A message must be printable, and no page of text.
        is_fit = 0 < len(text.encode(errors="surrogateescape")) < 10_000 and "Traceback" not in text
        return {"outcome": "refused" if is_fit else "wrong", "text": text}
    except BaseException as error:  # noqa: BLE001 - that is what is looked for
        return {"outcome": "wrong", "text": "".join(traceback.format_exception(error))[-3000:]}
    return {"outcome": "accepted", "text": ""}


def main():
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if len(sys.argv) == 3:
        print(json.dumps(judge(sys.argv[1], Path(sys.argv[2])), indent=2))
        return
    # What libraries print must not come between the answers.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for line in sys.stdin:
            case = json.loads(line)
            print(json.dumps(judge(case["kind"], Path(case["path"]))), file=answers, flush=True)


main()
