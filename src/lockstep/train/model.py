"""The trained network as a checkpoint holds it: all that prediction needs."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lockstep.arrays import Array
from lockstep.config import Config
from lockstep.data.batches import Scaling
from lockstep.data.dataset_file import DatasetInfo
from lockstep.data.samples import Form
from lockstep.nn.mlp import MLP, Workspace
from lockstep.storage.checkpoint import Checkpoint
from lockstep.train.observers import Snapshot

_OPTIMIZER = "optimizer."
# Rows that are predicted at a time.
_BLOCK_SIZE = 1024


def weights_sha256(parameters: Array) -> str:
    """Return the digest of a flat parameter vector.

    SHA-256 of its numbers as little-endian float32, in their order: layer by layer, the weights
    (a row per input) before the bias.
    """
    return hashlib.sha256(parameters.astype("<f4").tobytes()).hexdigest()


@dataclass(frozen=True)
class Model:
    """A network with its parameters and what is known of its inputs and classes.

    Parameters
    ----------
    network : MLP
        The shape.
    parameters : ndarray (num_parameters,)
        The flat vector.
    scaling : Scaling
        From stored numbers to inputs.
    class_names : tuple of str
        One per class.
    form : Form
        What its samples look like.
    dataset_sha256 : str
        Digest of the data that it was trained on.
    """

    network: MLP
    parameters: Array
    scaling: Scaling
    class_names: tuple[str, ...]
    form: Form
    dataset_sha256: str

    def probabilities(self, stored: Array) -> Array:
        """Return the network's outputs for samples.

        Parameters
        ----------
        stored : ndarray (num_samples, num_features)
            As a data set stores them, unscaled.

        Returns
        -------
        ndarray (num_samples, num_classes)
            Probabilities; for the quadratic loss, outputs between 0 and 1 that need not add up.
        """
        layers = self.network.layers(self.parameters)
        workspace = Workspace(self.network, 1, _BLOCK_SIZE, self.parameters.dtype)
        outputs = np.empty((len(stored), len(self.class_names)), self.parameters.dtype)
        for start in range(0, len(stored), _BLOCK_SIZE):
            rows = stored[start : start + _BLOCK_SIZE]
            self.scaling.apply(rows, workspace.inputs[0, : len(rows)])
            workspace.predict(layers)
            outputs[start : start + len(rows)] = workspace.outputs[0, :, : len(rows)].T
        return outputs


def checkpoint_facts(config: Config, info: DatasetInfo, network: MLP) -> dict[str, Any]:
    """Return what every checkpoint of a run tells beside its progress."""
    return {
        "config": asdict(config),
        "widths": network.widths,
        "activation": network.activation,
        "loss": network.loss,
        "class_names": info.class_names,
        "feature_shape": info.feature_shape,
        "image_form": info.image_form,
        "white": info.white,
        "dataset_sha256": info.content_sha256,
        "virtual_ranks": config.training.virtual_ranks,
    }


def checkpoint_arrays(network: MLP, scaling: Scaling, snapshot: Snapshot) -> dict[str, Array]:
    """Return the arrays of a checkpoint by name; copies, which the training won't change."""
    arrays = {"input.scale": scaling.scale, "input.offset": scaling.offset}
    arrays |= _layer_arrays("layers", network, snapshot.parameters.copy())
    for slot, values in snapshot.optimizer_state.items():
        arrays[f"{_OPTIMIZER}{slot}"] = values.copy()
    if snapshot.best_parameters is not None:
        # Never written to again, so no copy is needed.
        arrays |= _layer_arrays("best", network, snapshot.best_parameters)
    return arrays


def checkpoint_snapshot(checkpoint: Checkpoint, network: MLP) -> Snapshot:
    """Return the state in a checkpoint, from which a training can go on."""
    facts, arrays = checkpoint.facts, checkpoint.arrays
    has_best = any(name.startswith("best.") for name in arrays)
    return Snapshot(
        parameters=_flat_parameters("layers", network, arrays),
        optimizer_state={
            name.removeprefix(_OPTIMIZER): values
            for name, values in arrays.items()
            if name.startswith(_OPTIMIZER)
        },
        best_parameters=_flat_parameters("best", network, arrays) if has_best else None,
        progress=facts,
        is_best=facts["step"] == facts["best_step"] > 0,
    )


def _layer_arrays(prefix: str, network: MLP, parameters: Array) -> dict[str, Array]:
    arrays = {}
    for index, layer in enumerate(network.layers(parameters)):
        arrays[f"{prefix}.{index}.weight"] = layer[:-1]
        arrays[f"{prefix}.{index}.bias"] = layer[-1]
    return arrays


def _flat_parameters(prefix: str, network: MLP, arrays: Mapping[str, Array]) -> Array:
    parts = (
        arrays[f"{prefix}.{index}.{part}"].ravel()
        for index in range(len(network.layer_shapes))
        for part in ("weight", "bias")
    )
    return np.concatenate(list(parts))


def load_model(checkpoint: Checkpoint) -> Model:
    """Return the model in a checkpoint."""
    facts, arrays = checkpoint.facts, checkpoint.arrays
    network = MLP(tuple(facts["widths"]), facts["activation"], facts["loss"])
    return Model(
        network=network,
        parameters=_flat_parameters("layers", network, arrays),
        scaling=Scaling(arrays["input.scale"], arrays["input.offset"]),
        class_names=tuple(facts["class_names"]),
        form=Form(tuple(facts["feature_shape"]), facts["image_form"], facts["white"]),
        dataset_sha256=facts["dataset_sha256"],
    )
