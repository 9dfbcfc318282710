"""The trained network as a checkpoint holds it: all that prediction needs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lockstep.arrays import Array
from lockstep.config import Config
from lockstep.data.batches import Scaling
from lockstep.data.dataset_file import DatasetInfo
from lockstep.data.samples import Form
from lockstep.nn.mlp import MLP, Workspace
from lockstep.storage.checkpoint import Checkpoint

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
    """Return what every checkpoint of a run tells beside its step."""
    return {
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


def checkpoint_arrays(
    network: MLP, scaling: Scaling, parameters: Array, optimizer_state: Mapping[str, Array]
) -> dict[str, Array]:
    """Return the arrays of a checkpoint by name."""
    arrays = {"input.scale": scaling.scale, "input.offset": scaling.offset}
    for index, layer in enumerate(network.layers(parameters)):
        arrays[f"layers.{index}.weight"] = layer[:-1]
        arrays[f"layers.{index}.bias"] = layer[-1]
    for slot, values in optimizer_state.items():
        arrays[f"optimizer.{slot}"] = values
    return arrays


def load_model(checkpoint: Checkpoint) -> Model:
    """Return the model in a checkpoint."""
    facts, arrays = checkpoint.facts, checkpoint.arrays
    network = MLP(tuple(facts["widths"]), facts["activation"], facts["loss"])
    layers = (
        np.vstack([arrays[f"layers.{index}.weight"], arrays[f"layers.{index}.bias"]])
        for index in range(len(network.layer_shapes))
    )
    return Model(
        network=network,
        parameters=np.concatenate([layer.ravel() for layer in layers]),
        scaling=Scaling(arrays["input.scale"], arrays["input.offset"]),
        class_names=tuple(facts["class_names"]),
        form=Form(tuple(facts["feature_shape"]), facts["image_form"], facts["white"]),
        dataset_sha256=facts["dataset_sha256"],
    )
