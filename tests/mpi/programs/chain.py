"""Train one run in many short sessions, each on another number of ranks, and once in one go.

Started on the largest number of ranks. The arguments are the folder for the runs, the number of
sessions, a seed, and the options of the configuration as JSON. The root prints what both runs
left behind.
"""

import json
import random
import sys
from pathlib import Path

from train_all import fingerprint

from lockstep.config import load_config
from lockstep.parallel.connect import connect
from lockstep.train.requests import Requests
from lockstep.train.run import resume_training, run_training


def plan(num_steps, num_sessions, largest, seed):
    """Return (last step, ranks) of each session: every step count is random, and so is p."""
    generator = random.Random(seed)
    stops = sorted(generator.sample(range(1, num_steps), num_sessions - 1))
    sessions, before = [], 0
    for stop in [*stops, None]:
        before = generator.choice([p for p in range(1, largest + 1) if p != before])
        sessions.append((stop, before))
    return sessions


def main():
    results, num_sessions, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    options = json.loads(sys.argv[4])
    communicator = connect()
    whole = run_training(load_config(None, options), communicator, results, "whole")
    sessions = plan(whole.num_steps, num_sessions, communicator.world_size, seed)
    is_first = True
    for stop, num_ranks in sessions:
        group = communicator.first_ranks(num_ranks)
        if group is not None:
            requests = Requests(stop_after=stop)
            if is_first:
                run = run_training(load_config(None, options), group, results, "chain", requests)
            else:
                run = resume_training(results / "chain", {}, group, requests)
            assert run.num_steps == (stop or whole.num_steps)
        communicator.meet()
        is_first = False
    if communicator.rank == 0:
        found = {"whole": fingerprint(whole.folder), "chain": fingerprint(run.folder)}
        print(json.dumps({"num_ranks": [ranks for _, ranks in sessions], **found}), flush=True)


if __name__ == "__main__":
    main()
