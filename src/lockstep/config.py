"""The configuration: every field, its type, its limits, its default and what it means.

A configuration is a frozen dataclass of sections, and a TOML file of the same sections. Field
names are unique across sections, so on the command line a field goes by its name alone:
`learning_rate` of `[optimization]` is `--learning-rate`.
"""

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
import tomli_w
from msgspec import Meta

from lockstep.errors import UserError

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu", "gelu"]
Loss = Literal["cross_entropy", "quadratic"]
Initializer = Literal[
    "standard_normal", "glorot_uniform", "glorot_normal", "he_uniform", "he_normal"
]
OptimizerName = Literal["sgd", "momentum", "nesterov", "adam", "adamw", "lars", "lamb"]
ScheduleName = Literal["constant", "step", "cosine", "one_cycle"]
Normalization = Literal["none", "batch", "layer"]

# Keeps infinity out.
_LARGEST = 1e30
# A file of more bytes than this is no configuration.
_LARGEST_FILE_BYTES = 2**16
_MOST_SHOWN_CHARACTERS = 80
_MOST_SHOWN_PROBLEMS = 20
# Whole numbers beyond this are not exact as floating-point numbers.
_MOST = 2**53
_Count = Annotated[int, Meta(ge=1, le=_MOST)]
_CountOrZero = Annotated[int, Meta(ge=0, le=_MOST)]
_Fraction = Annotated[float, Meta(ge=0, lt=1)]
_NotNegative = Annotated[float, Meta(ge=0, le=_LARGEST)]
_Positive = Annotated[float, Meta(gt=0, le=_LARGEST)]


@dataclass(frozen=True)
class Data:
    """What to train on."""

    data: Annotated[str, Meta(description="Data set file, made by `lockstep convert`.")] = ""
    stage: Annotated[
        str,
        Meta(
            description="Folder in each host's own storage, such as /local/scratch or $TMPDIR "
            "(variables are those of the ranks there). One rank of each host copies the data set "
            "to it and checks the copy by its digest, and all ranks of the host read that. The "
            "copy is left there, in lockstep-<user id>/, for later jobs. Unset: the data are read "
            "where they are."
        ),
    ] = ""
    memory_budget_mb: Annotated[
        _Positive,
        Meta(
            description="Megabytes (of 1,000,000 bytes) for the samples that a rank keeps in "
            "memory. A data set of more than that is read block by block and shuffled in two "
            "levels, blocks and rows within a block, so its results depend on the budget."
        ),
    ] = 1024.0


@dataclass(frozen=True)
class Network:
    """The multilayer perceptron."""

    hidden_widths: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=1_000_000)], ...],
        Meta(
            max_length=1000, description="Units of each hidden layer; none is softmax regression."
        ),
    ] = (128,)
    activation: Annotated[Activation, Meta(description="Of the hidden layers.")] = "relu"
    loss: Annotated[
        Loss,
        Meta(
            description="Output layer and loss: cross_entropy is softmax with cross-entropy, "
            "quadratic is sigmoid with half the squared distance."
        ),
    ] = "cross_entropy"
    normalization: Annotated[
        Normalization,
        Meta(
            description="Of the hidden layers' pre-activations: batch over the samples of each "
            "virtual rank, layer over the units of each sample."
        ),
    ] = "none"
    normalization_momentum: Annotated[
        _Fraction,
        Meta(
            description="How much of the running mean and variance of batch normalization each "
            "step keeps."
        ),
    ] = 0.9
    initializer: Annotated[
        Initializer,
        Meta(description="Initial weights. Biases start at 0, but in N(0, 1) for standard_normal."),
    ] = "he_normal"
    dtype: Annotated[
        Literal["float32", "float64"], Meta(description="Of parameters and computation.")
    ] = "float32"


@dataclass(frozen=True)
class Optimization:
    """How the parameters are updated."""

    optimizer: Annotated[OptimizerName, Meta(description="Update rule.")] = "adamw"
    learning_rate: Annotated[_Positive, Meta(description="Peak learning rate.")] = 0.002
    learning_rate_scaling: Annotated[
        Literal["none", "linear", "sqrt"],
        Meta(
            description="Multiply learning_rate and final_learning_rate by global_batch_size / "
            "reference_batch_size, or by its square root."
        ),
    ] = "none"
    reference_batch_size: Annotated[
        _Count, Meta(description="Global batch size for which the learning rate was chosen.")
    ] = 128
    momentum: Annotated[_Fraction, Meta(description="Of momentum, nesterov and lars.")] = 0.9
    beta1: Annotated[
        _Fraction, Meta(description="Decay of the first moment of adam, adamw and lamb.")
    ] = 0.9
    beta2: Annotated[
        _Fraction, Meta(description="Decay of the second moment of adam, adamw and lamb.")
    ] = 0.999
    epsilon: Annotated[
        _Positive,
        Meta(description="Added to the root of the second moment of adam, adamw and lamb."),
    ] = 1e-8
    trust_coefficient: Annotated[
        _Positive,
        Meta(description="Of lars: a layer's step is about so much of its weights' norm."),
    ] = 0.001
    weight_decay: Annotated[
        _NotNegative,
        Meta(description="Decay of the weights: decoupled for adamw, within lars and lamb."),
    ] = 0.01
    l1: Annotated[
        _NotNegative, Meta(description="Strength of the penalty l1 * (sum of absolute weights).")
    ] = 0.0
    l2: Annotated[
        _NotNegative,
        Meta(description="Strength of the penalty l2 / 2 * (sum of squared weights)."),
    ] = 0.0
    max_norm: Annotated[
        _NotNegative,
        Meta(
            description="Largest Euclidean norm of the weights into a hidden unit, to which they "
            "are scaled down after every step; 0 for no limit."
        ),
    ] = 0.0
    clip_norm: Annotated[
        _NotNegative,
        Meta(description="Largest Euclidean norm of the mean gradient; 0 for no limit."),
    ] = 0.0
    schedule: Annotated[
        ScheduleName, Meta(description="Course of the learning rate over the training.")
    ] = "cosine"
    warmup_epochs: Annotated[
        _NotNegative, Meta(description="Epochs of linear warm-up before the schedule begins.")
    ] = 0.0
    decay_epochs: Annotated[
        _Positive, Meta(description="Schedule step: epochs between two drops.")
    ] = 10.0
    decay_factor: Annotated[
        _Positive, Meta(description="Schedule step: the learning rate is multiplied by it.")
    ] = 0.1
    final_learning_rate: Annotated[
        _NotNegative, Meta(description="Schedule cosine: where the learning rate ends.")
    ] = 0.0
    averaging: Annotated[
        Literal["none", "exponential", "last"],
        Meta(
            description="Average of the weights, which is evaluated and tested in their place: "
            "exponential, or of the last epochs."
        ),
    ] = "none"
    averaging_epochs: Annotated[
        _Positive,
        Meta(
            description="How far the average reaches back: the time constant of exponential, or "
            "the number of last epochs, counted from epochs: where patience ends the training "
            "before them, nothing is averaged."
        ),
    ] = 1.0


@dataclass(frozen=True)
class Regularization:
    """What keeps the network from learning the training samples by heart, beside penalties."""

    dropout: Annotated[
        tuple[_Fraction, ...],
        Meta(
            max_length=1000,
            description="Fraction of the hidden units that is left out of each sample in training: "
            "one for all hidden layers, or one for each; empty for none.",
        ),
    ] = ()
    input_dropout: Annotated[
        _Fraction, Meta(description="Fraction of the features that is left out likewise.")
    ] = 0.0
    label_smoothing: Annotated[
        _Fraction,
        Meta(description="Part of each sample's label that is spread evenly over all classes."),
    ] = 0.0


@dataclass(frozen=True)
class Augmentation:
    """Random changes to each training sample, another one each time; for image-shaped data."""

    shift: Annotated[
        _NotNegative, Meta(description="Largest shift in each direction, in pixels.")
    ] = 0.0
    rotation: Annotated[
        float, Meta(ge=0, le=180, description="Largest rotation to either side, in degrees.")
    ] = 0.0
    zoom: Annotated[
        _Fraction,
        Meta(
            description="Largest change of height and of width, each of its own, as a fraction: "
            "0.1 for 0.9 to 1.1 times."
        ),
    ] = 0.0
    shear: Annotated[
        float, Meta(ge=0, le=80, description="Largest shear to either side, in degrees.")
    ] = 0.0
    elastic_strength: Annotated[
        _NotNegative,
        Meta(description="Elastic deformation: factor of the smoothed displacements, in pixels."),
    ] = 0.0
    elastic_smoothness: Annotated[
        _Positive,
        Meta(
            description="Elastic deformation: standard deviation of the Gaussian that smooths the "
            "displacements, in pixels."
        ),
    ] = 4.0
    noise: Annotated[
        _NotNegative,
        Meta(
            description="Standard deviation of noise on each pixel, where white is 1; of data that "
            "are no images, on each input of the network."
        ),
    ] = 0.0
    erasing: Annotated[
        _Fraction, Meta(description="Fraction of the samples in which a rectangle is erased.")
    ] = 0.0
    erasing_area: Annotated[
        float, Meta(gt=0, le=1, description="Largest part of the image that is erased.")
    ] = 0.2


@dataclass(frozen=True)
class Training:
    """The course of the run and how it is spread over the ranks."""

    epochs: Annotated[_Count, Meta(description="Passes over the training rows.")] = 20
    global_batch_size: Annotated[
        _Count, Meta(description="Samples of one step over all ranks.")
    ] = 64
    accumulation: Annotated[
        _Count,
        Meta(
            description="Parts of equal size in which the gradient of a step is computed, one "
            "after the other, for batches that don't fit into memory."
        ),
    ] = 1
    seed: Annotated[
        int,
        Meta(
            ge=0,
            le=2**63 - 1,
            description="Of the initial weights, the sample order and all that is random in it.",
        ),
    ] = 0
    virtual_ranks: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Units of sharding, ordering and summing. They define the result, which "
            "is the same on any number of ranks up to it. 0: the number of ranks that the run "
            "starts with.",
        ),
    ] = 0
    reduction: Annotated[
        Literal["ordered", "mpi"],
        Meta(
            description="Sum of the gradients: ordered gives the same bits on any number of "
            "ranks, mpi leaves the order to the MPI library."
        ),
    ] = "ordered"
    threads_per_rank: Annotated[
        _CountOrZero,
        Meta(
            description="BLAS threads of each rank, at most one for each core that it may run on; "
            "another number gives other bits. 0: what OMP_NUM_THREADS or the BLAS library's own "
            "variable says, or else 1.",
        ),
    ] = 0
    patience: Annotated[
        _CountOrZero,
        Meta(
            description="Stop early after so many epochs without a better validation score; "
            "0: never.",
        ),
    ] = 0
    tested_weights: Annotated[
        Literal["best", "last"],
        Meta(
            description="Weights for the test split: those of the epoch with the best validation "
            "score, or of the last step."
        ),
    ] = "best"
    checkpoint_every_steps: Annotated[
        _CountOrZero,
        Meta(description="Save a checkpoint every so many steps, beside each epoch's end."),
    ] = 0
    checkpoint_every_minutes: Annotated[
        _NotNegative,
        Meta(description="Save a checkpoint when the last one is so many minutes old; 0: never."),
    ] = 10.0
    keep_checkpoints: Annotated[
        _Count, Meta(description="Newest checkpoints that are kept, beside the best one.")
    ] = 2
    stall_timeout_s: Annotated[
        _NotNegative,
        Meta(
            description="End the run when a rank has not been heard of, or has made no progress, "
            "for so many seconds; more where steps take longer than a third of it. 0: never."
        ),
    ] = 60.0
    replica_check_every: Annotated[
        _CountOrZero,
        Meta(
            description="Compare the ranks' replicas every so many steps, and stop when they "
            "differ; 0: never.",
        ),
    ] = 100
    on_nonfinite: Annotated[
        Literal["stop", "skip"],
        Meta(
            description="What to do when a loss or gradient is infinite or not a number: stop the "
            "run, or skip the step's update. To skip, every rank makes the whole update, which is "
            "slower on several."
        ),
    ] = "stop"
    trace: Annotated[
        bool,
        Meta(
            description="Write digests of every step's batch, gradient and parameters to the run "
            "folder, for `lockstep compare`; slow."
        ),
    ] = False


@dataclass(frozen=True)
class Config:
    """A whole run."""

    data: Data = field(default_factory=Data)
    network: Network = field(default_factory=Network)
    optimization: Optimization = field(default_factory=Optimization)
    regularization: Regularization = field(default_factory=Regularization)
    augmentation: Augmentation = field(default_factory=Augmentation)
    training: Training = field(default_factory=Training)


@dataclass(frozen=True)
class FieldInfo:
    """What there is to know of one configuration field."""

    section: str
    name: str
    kind: Any
    default: Any
    description: str

    @property
    def choices(self) -> tuple[str, ...]:
        """The allowed words, where words are allowed."""
        return get_args(self._plain_kind) if get_origin(self._plain_kind) is Literal else ()

    @property
    def is_list(self) -> bool:
        """Whether it holds several values."""
        return get_origin(self._plain_kind) is tuple

    @property
    def type_name(self) -> str:
        """The type, in a word for people."""
        if self.choices:
            return "|".join(self.choices)
        names = {int: "whole number", float: "number", str: "text", bool: "true|false"}
        if self.is_list:
            return f"{names[_without_limits(get_args(self._plain_kind)[0])]}s"
        return names[self._plain_kind]

    @property
    def _plain_kind(self) -> Any:  # noqa: ANN401 - a type expression
        return _without_limits(self.kind)


def _without_limits(kind: Any) -> Any:  # noqa: ANN401 - type expressions
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def _list_fields() -> Iterator[FieldInfo]:
    for section, section_type in get_type_hints(Config).items():
        kinds = get_type_hints(section_type, include_extras=True)
        for entry in fields(section_type):
            kind = kinds[entry.name]
            description = next(meta.description for meta in kind.__metadata__ if meta.description)
            yield FieldInfo(section, entry.name, kind, entry.default, description)


FIELDS = {info.name: info for info in _list_fields()}


def load_config(
    path: Path | None, options: Mapping[str, str], changes: Path | None = None
) -> Config:
    """Put a configuration together: defaults, then files, then the command line.

    Parameters
    ----------
    path : Path, optional
        A TOML file of sections and fields.
    options : mapping of str to str
        Field names and their values as text; lists are separated by commas. What is no field's
        name is told as it stands.
    changes : Path, optional
        Another file, which wins over the first one.

    Returns
    -------
    Config
        The whole configuration.

    Raises
    ------
    UserError
        One message for all that is wrong: the file, unknown or ill-typed fields with the near
        misses, values out of range.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for file in filter(None, (path, changes)):
        values |= _values_of_file(file, problems)
    values |= _values_of_options(options, problems)
    if problems:
        headline = (
            "The configuration has a problem"
            if len(problems) == 1
            else (f"The configuration has {len(problems)} problems")
        )
        told = problems[:_MOST_SHOWN_PROBLEMS]
        if len(problems) > len(told):
            told.append(f"and {len(problems) - len(told)} more")
        raise UserError("\n  ".join([f"{headline}:", *told]))
    config = Config()
    for section, section_type in get_type_hints(Config).items():
        chosen = {name: v for name, v in values.items() if FIELDS[name].section == section}
        config = replace(config, **{section: section_type(**chosen)})
    return config


def to_toml(config: Config) -> str:
    """Write a configuration as the TOML that `load_config` reads."""
    return tomli_w.dumps(asdict(config))


def near_misses(word: str, possible: Iterable[str]) -> str:
    """Return a hint at the names that `word` may have been meant for, or nothing."""
    close = difflib.get_close_matches(word, list(possible), n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _values_of_file(path: Path, problems: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for section, entries in read_toml(path).items():
        where = f"{path}: [{_shortened(section)}]"
        if section in FIELDS and not isinstance(entries, dict):
            problems.append(f"{path}: {section} belongs under [{FIELDS[section].section}]")
        elif section not in get_type_hints(Config):
            hint = near_misses(section, get_type_hints(Config))
            problems.append(f"{where}: no such section{hint}")
        elif not isinstance(entries, dict):
            problems.append(f"{where} should be a section of fields")
        else:
            for name, value in entries.items():
                if name in FIELDS and FIELDS[name].section != section:
                    problems.append(f"{where} {name}: belongs under [{FIELDS[name].section}]")
                elif name not in FIELDS:
                    hint = near_misses(name, FIELDS)
                    problems.append(f"{where} {_shortened(name)}: no such field{hint}")
                else:
                    _convert(FIELDS[name], value, f"{where} {name}", values, problems)
    return values


def _values_of_options(options: Mapping[str, str], problems: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, text in options.items():
        if name not in FIELDS:
            hint = near_misses(name, map(option_name, FIELDS))
            problems.append(f"{_shortened(name)}: no such option{hint}")
            continue
        is_list = FIELDS[name].is_list
        value = (text.split(",") if text else []) if is_list else text
        _convert(FIELDS[name], value, option_name(name), values, problems, strict=False)
    return values


def option_name(field_name: str) -> str:
    """Return a field's name on the command line."""
    return "--" + field_name.replace("_", "-")


def _convert(
    info: FieldInfo,
    value: Any,  # noqa: ANN401 - whatever the user wrote
    where: str,
    values: dict[str, Any],
    problems: list[str],
    *,
    strict: bool = True,
) -> None:
    if info.choices and value not in info.choices:
        hint = near_misses(_shown(value).strip("'"), info.choices)
        problems.append(f"{where}: {_shown(value)} is none of {', '.join(info.choices)}{hint}")
        return
    try:
        values[info.name] = msgspec.convert(value, info.kind, strict=strict)
    except msgspec.ValidationError as error:
        reason = str(error).replace("`", "")
        problems.append(f"{where}: {_shown(value)} won't do ({info.type_name}): {reason}")


def _shown(value: Any) -> str:  # noqa: ANN401 - whatever the user wrote
    try:
        return _shortened(repr(value))
    except (ValueError, RecursionError):
        # Python writes no whole numbers of thousands of digits, and no deeply nested tables.
        return "a huge value"


def _shortened(text: str) -> str:
    short = text[:_MOST_SHOWN_CHARACTERS]
    return short if short == text else f"{short}..."


def read_toml(path: Path) -> dict[str, Any]:
    """Read a small TOML file.

    Raises
    ------
    UserError
        When it is missing, enormous, or no TOML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise UserError(f"There is no configuration file {path}.") from error
    except OSError as error:
        raise UserError(f"Can't read the configuration {path}: {error.strerror}.") from error
    if len(content) > _LARGEST_FILE_BYTES:
        raise UserError(
            f"{path} is no configuration: it is larger than {_LARGEST_FILE_BYTES} bytes. Name a "
            "TOML file of a few lines, such as a run's config.toml."
        )
    try:
        return tomllib.loads(content.decode())
    except RecursionError as error:
        raise UserError(f"{path} is no configuration: its values are nested too deeply.") from error
    except ValueError as error:
        raise UserError(f"{path} is not valid TOML: {error}.") from error
