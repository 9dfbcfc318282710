"""The trained network as a checkpoint holds it: all that prediction needs."""

import hashlib
from dataclasses import asdict, dataclass
from math import prod
from typing import Annotated, Any, TypeVar

import msgspec
import numpy as np
from msgspec import Meta

from lockstep.arrays import Array
from lockstep.config import Activation, Config, Loss, Normalization
from lockstep.data.batches import Scaling
from lockstep.data.dataset_file import DatasetInfo
from lockstep.data.samples import Form
from lockstep.errors import UserError
from lockstep.nn.mlp import MLP, Workspace
from lockstep.storage.checkpoint import Checkpoint
from lockstep.train.observers import Snapshot

_Count = Annotated[int, Meta(ge=1, le=2**63 - 1)]
_CountOrZero = Annotated[int, Meta(ge=0, le=2**63 - 1)]
_Facts = TypeVar("_Facts")
_OPTIMIZER = "optimizer."
# Prefixes of the arrays of a whole parameter vector.
_LAYERS, _AVERAGE, _BEST = "layers", "average", "best"
# Rows that are predicted at a time.
_BLOCK_SIZE = 1024


def weights_sha256(parameters: Array) -> str:
    """Return the digest of a flat parameter vector.

    SHA-256 of its numbers as little-endian float32, in their order: layer by layer, the weights
    (a row per input) before the bias, and the gain after it; then the running means and variances
    of batch normalization, layer by layer.
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
        layers = self.network.evaluated_layers(self.parameters)
        workspace = Workspace(self.network.evaluated, 1, _BLOCK_SIZE, self.parameters.dtype)
        outputs = np.empty((len(stored), len(self.class_names)), self.parameters.dtype)
        for start in range(0, len(stored), _BLOCK_SIZE):
            rows = stored[start : start + _BLOCK_SIZE]
            self.scaling.apply(rows, workspace.inputs[0, : len(rows)])
            workspace.predict(layers)
            outputs[start : start + len(rows)] = workspace.outputs[0, :, : len(rows)].T
        return outputs


@dataclass(frozen=True)
class _ModelFacts:
    """What a model needs of a checkpoint's facts."""

    widths: Annotated[tuple[_Count, ...], Meta(min_length=2)]
    activation: Activation
    loss: Loss
    class_names: tuple[str, ...]
    feature_shape: Annotated[tuple[_Count, ...], Meta(min_length=1)]
    image_form: str
    white: Annotated[int, Meta(ge=1, le=255)]
    dataset_sha256: str
    normalization: Normalization = "none"


@dataclass(frozen=True)
class _RunFacts:
    """What a training that goes on needs of them; see `lockstep.train.progress.Progress`."""

    config: dict[str, dict[str, Any]]
    dataset_sha256: str
    wall_time_s: float
    step: _CountOrZero
    epoch: _CountOrZero
    best_epoch: _CountOrZero
    best_step: _CountOrZero
    best_correct: Annotated[int, Meta(ge=-1, le=2**63 - 1)]
    best_loss: float | None
    loss_sum: float
    spent_s: dict[str, float]
    num_skipped_steps: _CountOrZero = 0
    num_skipped_samples: _CountOrZero = 0


def check_run_facts(checkpoint: Checkpoint) -> None:
    """See that a checkpoint holds what a training goes on from.

    Raises
    ------
    UserError
        When something is missing or of another type.
    """
    _checked_facts(checkpoint, _RunFacts)


def _checked_facts(checkpoint: Checkpoint, kind: type[_Facts]) -> _Facts:
    try:
        return msgspec.convert(checkpoint.facts, kind)
    except msgspec.ValidationError as error:
        raise _wrong(checkpoint, str(error).replace("`", "").replace("$.", "")) from error


def _wrong(checkpoint: Checkpoint, what: str) -> UserError:
    return UserError(
        f"{checkpoint.name} doesn't hold what a checkpoint of Lockstep should: {what}. Take "
        "another one, or train the run again from its config.toml."
    )


def checkpoint_facts(config: Config, info: DatasetInfo, network: MLP) -> dict[str, Any]:
    """Return what every checkpoint of a run tells beside its progress."""
    return {
        "config": asdict(config),
        "widths": network.widths,
        "activation": network.activation,
        "loss": network.loss,
        "normalization": network.normalization,
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
    arrays |= _layer_arrays(_LAYERS, network, snapshot.parameters.copy())
    for slot, values in snapshot.optimizer_state.items():
        arrays[f"{_OPTIMIZER}{slot}"] = values.copy()
    if snapshot.average is not None:
        arrays |= _layer_arrays(_AVERAGE, network, snapshot.average.copy())
    if snapshot.best_parameters is not None:
        # Never written to again, so no copy is needed.
        arrays |= _layer_arrays(_BEST, network, snapshot.best_parameters)
    return arrays


def checkpoint_snapshot(checkpoint: Checkpoint, network: MLP) -> Snapshot:
    """Return the state in a checkpoint, from which a training can go on.

    Raises
    ------
    UserError
        When its arrays aren't those of the network.
    """
    facts, arrays = checkpoint.facts, checkpoint.arrays
    average, best = (
        _flat_parameters(prefix, network, checkpoint) if _has(checkpoint, prefix) else None
        for prefix in (_AVERAGE, _BEST)
    )
    return Snapshot(
        parameters=_flat_parameters(_LAYERS, network, checkpoint),
        optimizer_state={
            name.removeprefix(_OPTIMIZER): _array(checkpoint, name, (network.num_trainable,))
            for name in arrays
            if name.startswith(_OPTIMIZER)
        },
        average=average,
        best_parameters=best,
        progress=facts,
        is_best=facts["step"] == facts["best_step"] > 0,
    )


def _has(checkpoint: Checkpoint, prefix: str) -> bool:
    return any(name.startswith(f"{prefix}.") for name in checkpoint.arrays)


def _layer_arrays(prefix: str, network: MLP, parameters: Array) -> dict[str, Array]:
    """Name the parts of a flat parameter vector, in its order."""
    arrays = {}
    for index, (layer, fan_in) in enumerate(
        zip(network.layers(parameters), network.widths[:-1], strict=True)
    ):
        arrays[f"{prefix}.{index}.weight"] = layer[:fan_in]
        arrays[f"{prefix}.{index}.bias"] = layer[fan_in]
        if len(layer) > fan_in + 1:
            arrays[f"{prefix}.{index}.gain"] = layer[fan_in + 1]
    for index, (means, variances) in enumerate(network.statistics(parameters)):
        arrays[f"{prefix}.{index}.running_mean"] = means
        arrays[f"{prefix}.{index}.running_variance"] = variances
    return arrays


def _flat_parameters(prefix: str, network: MLP, checkpoint: Checkpoint) -> Array:
    # The names and shapes follow from the network alone, whatever the numbers are.
    nothing = np.broadcast_to(np.float32(0), (network.num_parameters,))
    wanted = _layer_arrays(prefix, network, nothing)
    parts = [_array(checkpoint, name, like.shape).ravel() for name, like in wanted.items()]
    return np.concatenate(parts)


def _array(checkpoint: Checkpoint, name: str, *shapes: tuple[int, ...]) -> Array:
    """Return an array of one of some shapes; say so if there is no such array."""
    array = checkpoint.arrays.get(name)
    if array is None or array.shape not in shapes or array.dtype not in (np.float32, np.float64):
        found = "is missing" if array is None else f"is {array.dtype} {array.shape}"
        wanted = " or ".join(map(str, shapes))
        raise _wrong(checkpoint, f"its array {name}, float32 or float64 {wanted}, {found}")
    return array


def load_model(checkpoint: Checkpoint) -> Model:
    """Return the model in a checkpoint.

    Raises
    ------
    UserError
        When it holds none.
    """
    facts = _checked_facts(checkpoint, _ModelFacts)
    num_features = prod(facts.feature_shape)
    if (facts.widths[0], facts.widths[-1]) != (num_features, len(facts.class_names)):
        raise _wrong(checkpoint, f"its widths {facts.widths} don't fit its features and classes")
    network = MLP(facts.widths, facts.activation, facts.loss, facts.normalization)
    scale, offset = (
        _array(checkpoint, f"input.{name}", (), (num_features,)) for name in ("scale", "offset")
    )
    return Model(
        network=network,
        parameters=_flat_parameters(
            _AVERAGE if _has(checkpoint, _AVERAGE) else _LAYERS, network, checkpoint
        ),
        scaling=Scaling(scale, offset),
        class_names=facts.class_names,
        form=Form(facts.feature_shape, facts.image_form, facts.white),
        dataset_sha256=facts.dataset_sha256,
    )
