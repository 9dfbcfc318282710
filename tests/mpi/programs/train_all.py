"""Train several small configurations, one after the other, on the ranks this is started on.

The root prints what each left behind, as far as it must not depend on the number of ranks.
"""

import hashlib
import json
import sys
from pathlib import Path

from lockstep.config import load_config
from lockstep.parallel.connect import connect
from lockstep.storage.checkpoint import CheckpointStore
from lockstep.storage.run_folder import read_json, read_json_lines
from lockstep.train.run import run_training


def fingerprint(folder):
    summary = read_json(folder.summary)
    checkpoint = CheckpointStore(folder.checkpoints).load("latest")
    digest = hashlib.sha256()
    for name in sorted(checkpoint.arrays):
        digest.update(name.encode() + checkpoint.arrays[name].tobytes())
    summary.pop("wall_time_s")
    return {
        "weights_sha256": summary["weights_sha256"],
        "checkpoint": digest.hexdigest(),
        "summary": summary,
        "figures": hashlib.sha256(folder.figures.read_bytes()).hexdigest(),
        "metrics": [
            {name: value for name, value in line.items() if not name.endswith("_s")}
            for line in read_json_lines(folder.metrics)
        ],
    }


def main():
    results, configurations = Path(sys.argv[1]), json.loads(sys.argv[2])
    communicator = connect()
    for name, options in configurations.items():
        folder = run_training(load_config(None, options), communicator, results, name).folder
        if communicator.rank == 0:
            print(json.dumps({name: fingerprint(folder)}), flush=True)


if __name__ == "__main__":
    main()
