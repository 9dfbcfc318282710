"""Run `lockstep ARGUMENTS...` with a disk that takes the first checkpoint and hangs at the next."""

import threading

from lockstep.__main__ import main
from lockstep.storage.checkpoint import CheckpointStore

save = CheckpointStore.save


def hang(store, checkpoint, *, is_best):
    if checkpoint.facts["step"]:
        print("The disk hangs.", flush=True)
        threading.Event().wait()
    return save(store, checkpoint, is_best=is_best)


CheckpointStore.save = hang
main()
