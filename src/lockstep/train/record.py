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
    cut_json_lines,
    read_json,
    write_arrays,
    write_json,
    write_text,
)
from lockstep.storage.writer import CheckpointWriter
from lockstep.train.blueprint import network_of
from lockstep.train.model import checkpoint_arrays, checkpoint_facts, weights_sha256
from lockstep.train.observers import EpochResult, Observer, Outcome, Snapshot
from lockstep.train.scores import scores
from lockstep.train.trace import TraceLine

# More first-layer units than this make no readable picture.
_NUM_DRAWN_UNITS = 64


class RunRecord(Observer):
    """Writes configuration, metrics, checkpoints and summary.

    Parameters
    ----------
    folder : RunFolder
        Of a new run, or of one that goes on.
    config : Config
        Resolved.
    dataset : DatasetFile
        Open.
    environment : dict
        Hosts, versions and machine, for `run.json`.
    resumed : Checkpoint, optional
        Where a run goes on from.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        dataset: DatasetFile,
        environment: dict[str, Any],
        resumed: Checkpoint | None = None,
    ) -> None:
        self._folder = folder
        self._config = config
        self._dataset = dataset
        self._network = network_of(config, dataset.info)
        # The number of epochs may change from session to session, and the learning rate with it.
        self._session = {"started": _now(), "epochs": config.training.epochs, **environment}
        spent_s = resumed.facts["wall_time_s"] if resumed else 0.0
        self._last_save_s = time.perf_counter()
        self._start_s = self._last_save_s - spent_s
        store = CheckpointStore(folder.checkpoints, config.training.keep_checkpoints)
        self._writer = CheckpointWriter(store, [folder.metrics, folder.trace])
        self._is_rehearsed = False
        write_text(folder.config, to_toml(config))
        if resumed:
            self._go_on(resumed)
        else:
            self._begin()
        write_json(folder.run, self._facts)

    def _begin(self) -> None:
        self._facts = {
            "run": self._folder.path.name,
            "started": self._session["started"],
            "ended": None,
            "network": str(self._network),
            "num_parameters": self._network.num_parameters,
            "virtual_ranks": self._config.training.virtual_ranks,
            "seed": self._config.training.seed,
            "dataset": _dataset_facts(self._config, self._dataset.info),
            **self._session,
            "resumed": [],
        }

    def _go_on(self, checkpoint: Checkpoint) -> None:
        """Leave in the metrics and the trace what had been written up to the checkpoint."""
        facts = checkpoint.facts
        self._folder.remove_leftovers()
        CheckpointStore(self._folder.checkpoints).remove_stale()
        cut_json_lines(self._folder.metrics, lambda line: line["epoch"] <= facts["epoch"])
        cut_json_lines(self._folder.trace, lambda line: line["step"] <= facts["step"])
        self._session["step"] = facts["step"]
        self._facts = read_json(self._folder.run)
        self._facts["ended"] = None
        self._facts["resumed"] = [*self._facts.get("resumed", []), self._session]

    def epoch_begins(self, epoch: int, num_steps: int, num_done: int) -> None:
        """Take away the summary of a run that was finished, and now goes on for longer."""
        del epoch, num_steps, num_done
        self._folder.summary.unlink(missing_ok=True)
        self._folder.figures.unlink(missing_ok=True)

    def reduction_made(self, name: str) -> None:
        """Tell in `run.json` how the session adds up its gradients."""
        self._session["reduction"] = name
        if not self._facts["resumed"]:
            self._facts["reduction"] = name
        write_json(self._folder.run, self._facts)

    def epoch_done(self, result: EpochResult) -> None:
        """Append to the metrics; before the checkpoint, which so always finds them there."""
        append_json_line(self._folder.metrics, vars(result))

    def traced(self, line: TraceLine) -> None:
        """Append to the trace."""
        append_json_line(self._folder.trace, vars(line))

    @property
    def save_s(self) -> float:
        """Ask who writes them."""
        return self._writer.longest_s

    def wants_checkpoint(self) -> bool:
        """Tell whether the last checkpoint is old enough.

        If it could not be written, the run ends at once.
        """
        self._writer.check()
        interval_s = 60 * self._config.training.checkpoint_every_minutes
        return interval_s > 0 and time.perf_counter() - self._last_save_s >= interval_s

    def checkpoint(self, snapshot: Snapshot) -> None:
        """Copy the state, and let it be written behind the training.

        The first one is waited for: a full or read-only disk is found while that is cheap.
        """
        self._last_save_s = time.perf_counter()
        checkpoint = checkpoint_of(self._config, self._dataset, snapshot, self._wall_time_s)
        self._writer.submit(checkpoint, is_best=snapshot.is_best)
        if not self._is_rehearsed:
            self._writer.flush()
            self._is_rehearsed = True

    def finish_checkpoints(self) -> None:
        """Wait until the last one is written, and take no more."""
        self._writer.close()

    def how_to_go_on(self) -> str:
        """Name the command."""
        return (
            "The training has been saved up to here, and can go on: "
            f"lockstep train --resume {self._folder.path}"
        )

    @property
    def _wall_time_s(self) -> float:
        """Seconds of all sessions."""
        return time.perf_counter() - self._start_s

    def training_done(self, outcome: Outcome) -> None:
        """Write the summary and what the plots need."""
        summary = {
            **_test_scores(outcome, self._dataset.info),
            "weights_sha256": weights_sha256(outcome.parameters),
            "num_steps": outcome.num_steps,
            "num_epochs": outcome.num_epochs,
            "num_skipped_steps": outcome.num_skipped_steps,
            "best_epoch": outcome.best_epoch,
            "best_val_accuracy": outcome.best_accuracy,
            "tested_epoch": outcome.tested_epoch,
            "tested_weights_sha256": weights_sha256(outcome.tested_parameters),
            "tested_weights": self._config.training.tested_weights,
            "stopped_early": outcome.num_epochs < self._config.training.epochs,
            "wall_time_s": self._wall_time_s,
        }
        write_arrays(self._folder.figures, self._figures(outcome))
        write_json(self._folder.summary, summary)
        write_json(self._folder.run, {**self._facts, "ended": _now()})

    def _figures(self, outcome: Outcome) -> dict[str, Array]:
        num_features = self._network.widths[0]
        first_layer = self._network.layers(outcome.tested_parameters)[0]
        first_layer = first_layer[:num_features, :_NUM_DRAWN_UNITS]
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


def checkpoint_of(
    config: Config, dataset: DatasetFile, snapshot: Snapshot, wall_time_s: float
) -> Checkpoint:
    """Return a checkpoint of a training, with copies of its arrays."""
    network = network_of(config, dataset.info)
    scaling = scaling_of(dataset, config.network.dtype)
    facts = checkpoint_facts(config, dataset.info, network)
    return Checkpoint(
        arrays=checkpoint_arrays(network, scaling, snapshot),
        facts={**facts, **snapshot.progress, "wall_time_s": wall_time_s},
    )


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
