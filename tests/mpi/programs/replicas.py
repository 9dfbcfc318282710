"""Train, and compare the replicas of all ranks with each other."""

import sys
from pathlib import Path

from lockstep.config import load_config
from lockstep.data.dataset_file import DatasetFile
from lockstep.parallel.connect import connect
from lockstep.train import fingerprint
from lockstep.train.model import weights_sha256
from lockstep.train.observers import Observer
from lockstep.train.run import resolve
from lockstep.train.trainer import Trainer


def main():
    communicator = connect()
    options = {"data": sys.argv[1], "epochs": "2", "clip_norm": "0.5", "l2": "0.01"}
    config = resolve(load_config(None, options), communicator.world_size)
    with DatasetFile.open(Path(config.data.data)) as dataset:
        trainer = Trainer(config, dataset, communicator, Observer())
        trainer.train()
    kernels = fingerprint.kernels(communicator)
    digests = communicator.gather_texts(weights_sha256(trainer.parameters))
    if communicator.rank == 0:
        print(len(kernels), len(set(digests)))


if __name__ == "__main__":
    main()
