"""The observer that fills the run folder."""

import time
from datetime import UTC, datetime
from typing import Any

import numpy as np

from lockstep.arrays import Array
from lockstep.config import Config, to_toml
from lockstep.data.batches import scaling_of
from lockstep.data.dataset_file import DatasetFile, DatasetInfo
from lockstep.storage.checkpoint import Checkpoint, CheckpointStore
from lockstep.storage.run_folder import (
    RunFolder,
    append_json_line,
    write_arrays,
    write_json,
    write_text,
)
from lockstep.train.model import checkpoint_arrays, checkpoint_facts, weights_sha256
from lockstep.train.observers import EpochResult, Observer, Outcome, Snapshot
from lockstep.train.scores import scores
from lockstep.train.trainer import network_of

# More first-layer units than this make no readable picture.
_NUM_DRAWN_UNITS = 64


class RunRecord(Observer):
    """Writes configuration, metrics, checkpoints and summary.

    Parameters
    ----------
    folder : RunFolder
        New.
    config : Config
        Resolved.
    dataset : DatasetFile
        Open.
    environment : dict
        Hosts, versions and machine, for `run.json`.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        dataset: DatasetFile,
        environment: dict[str, Any],
    ) -> None:
        self._folder = folder
        self._config = config
        self._dataset = dataset
        self._network = network_of(config, dataset.info)
        self._start = time.perf_counter()
        self._store = CheckpointStore(folder.checkpoints, config.training.keep_checkpoints)
        self._facts = {
            "run": folder.path.name,
            "started": _now(),
            "ended": None,
            "network": str(self._network),
            "num_parameters": self._network.num_parameters,
            "virtual_ranks": config.training.virtual_ranks,
            "seed": config.training.seed,
            "dataset": _dataset_facts(config, dataset.info),
            **environment,
        }
        write_text(folder.config, to_toml(config))
        write_json(folder.run, self._facts)

    def epoch_done(self, result: EpochResult, snapshot: Snapshot) -> None:
        """Append to the metrics and save a checkpoint."""
        append_json_line(self._folder.metrics, vars(result))
        info = self._dataset.info
        scaling = scaling_of(self._dataset, self._config.network.dtype)
        checkpoint = Checkpoint(
            arrays=checkpoint_arrays(
                self._network, scaling, snapshot.parameters, snapshot.optimizer_state
            ),
            facts={
                **checkpoint_facts(self._config, info, self._network),
                **snapshot.progress,
            },
        )
        self._store.save(checkpoint, is_best=snapshot.is_best)

    def training_done(self, outcome: Outcome) -> None:
        """Write the summary and what the plots need."""
        wall_time_s = time.perf_counter() - self._start
        summary = {
            **_test_scores(outcome, self._dataset.info),
            "weights_sha256": weights_sha256(outcome.parameters),
            "num_steps": outcome.num_steps,
            "num_epochs": outcome.num_epochs,
            "best_epoch": outcome.best_epoch,
            "best_val_accuracy": outcome.best_accuracy,
            "tested_epoch": outcome.tested_epoch,
            "tested_weights_sha256": weights_sha256(outcome.tested_parameters),
            "tested_weights": self._config.training.tested_weights,
            "stopped_early": outcome.num_epochs < self._config.training.epochs,
            "wall_time_s": wall_time_s,
        }
        write_arrays(self._folder.figures, self._figures(outcome))
        write_json(self._folder.summary, summary)
        write_json(self._folder.run, {**self._facts, "ended": _now()})

    def _figures(self, outcome: Outcome) -> dict[str, Array]:
        first_layer = self._network.layers(outcome.tested_parameters)[0][:-1, :_NUM_DRAWN_UNITS]
        figures: dict[str, Array] = {"first_layer.weight": first_layer.T.astype(np.float32)}
        if outcome.examination:
            mistakes = outcome.examination.mistakes
            feature_shape = self._dataset.info.feature_shape
            samples = [self._dataset.read("test", row, row + 1)[0] for row in mistakes.rows]
            stored = np.concatenate(samples) if samples else self._dataset.read("test", 0, 0)[0]
            figures |= {
                "mistakes.x": stored.reshape(-1, *feature_shape),
                "mistakes.index": mistakes.rows,
                "mistakes.true": mistakes.labels,
                "mistakes.predicted": mistakes.predicted,
                "mistakes.probability": mistakes.probability.astype(np.float32),
                "mistakes.true_probability": mistakes.true_probability.astype(np.float32),
            }
        return figures


def _test_scores(outcome: Outcome, info: DatasetInfo) -> dict[str, Any]:
    own = {"macro_f1", "confusion_matrix", "per_class"}
    found = scores(outcome.examination, info.class_names)
    return {name if name in own else f"test_{name}": value for name, value in found.items()}


def _dataset_facts(config: Config, info: DatasetInfo) -> dict[str, Any]:
    return {
        "path": config.data.data,
        "name": info.name,
        "content_sha256": info.content_sha256,
        "num_samples": info.num_samples,
        "feature_shape": info.feature_shape,
        "class_names": info.class_names,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
