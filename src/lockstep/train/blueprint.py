"""What a configuration and a data set make of a training, before any of it is made."""

from dataclasses import asdict

from lockstep.config import Config
from lockstep.data.augmentation import Strengths
from lockstep.data.dataset_file import DatasetFile, DatasetInfo
from lockstep.data.memory import MemoryBudget
from lockstep.data.shards import Sharding
from lockstep.nn.dropout import Dropout
from lockstep.nn.mlp import MLP
from lockstep.optim.optimizers import Hyperparameters
from lockstep.optim.schedules import Schedule, learning_rate_factor


def network_of(config: Config, info: DatasetInfo) -> MLP:
    """Return the configured network with the data set's inputs and classes."""
    widths = (info.num_features, *config.network.hidden_widths, info.num_classes)
    network = config.network
    return MLP(widths, network.activation, network.loss, network.normalization)


def sharding_of(config: Config, info: DatasetInfo) -> Sharding:
    """Return the division of the training rows over virtual ranks and parts of steps."""
    training = config.training
    samples_per_part = training.global_batch_size // training.accumulation
    return Sharding(info.num_samples["train"], samples_per_part, training.virtual_ranks)


def strengths_of(config: Config) -> Strengths:
    """Return how much the training samples are augmented."""
    return Strengths(**asdict(config.augmentation))


def memory_budget(config: Config, dataset: DatasetFile) -> MemoryBudget:
    """Return what a rank may use for the rows of a data set."""
    return MemoryBudget(config.data.memory_budget_mb, dataset.info, config.network.dtype)


def dropout_of(
    config: Config, network: MLP, virtual_ranks: range, num_samples: int
) -> Dropout | None:
    """Return what draws the masks, if there are any."""
    regularization = config.regularization
    hidden = regularization.dropout or (0.0,)
    if len(hidden) == 1:
        hidden *= network.num_hidden
    dropout = Dropout(
        [regularization.input_dropout, *hidden],
        network.widths[:-1],
        virtual_ranks,
        num_samples,
        config.training.seed,
        config.network.dtype,
    )
    return dropout if dropout.is_used else None


def hyperparameters_of(config: Config) -> Hyperparameters:
    """Return what the optimizer is tuned by."""
    optimization = config.optimization
    return Hyperparameters(
        momentum=optimization.momentum,
        beta1=optimization.beta1,
        beta2=optimization.beta2,
        epsilon=optimization.epsilon,
        weight_decay=optimization.weight_decay,
        trust_coefficient=optimization.trust_coefficient,
    )


def rate_factor(config: Config) -> float:
    """Return what the configured learning rates are multiplied by."""
    optimization = config.optimization
    return learning_rate_factor(
        optimization.learning_rate_scaling,
        config.training.global_batch_size,
        optimization.reference_batch_size,
    )


def schedule_of(config: Config, steps_per_epoch: int) -> Schedule:
    """Return the learning rate at every step."""
    optimization, factor = config.optimization, rate_factor(config)
    return Schedule(
        kind=optimization.schedule,
        learning_rate=factor * optimization.learning_rate,
        num_steps=config.training.epochs * steps_per_epoch,
        warmup_steps=round(optimization.warmup_epochs * steps_per_epoch),
        decay_steps=max(1, round(optimization.decay_epochs * steps_per_epoch)),
        decay_factor=optimization.decay_factor,
        final_learning_rate=factor * optimization.final_learning_rate,
    )
