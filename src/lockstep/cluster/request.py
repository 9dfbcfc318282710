"""What a user asks a batch scheduler for, with a site's own defaults."""

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import click
import msgspec
from msgspec import Meta

from lockstep.cluster.scheduler import seconds_of
from lockstep.config import near_misses, read_toml
from lockstep.errors import UserError

_Count = Annotated[int, Meta(ge=1)]


@dataclass(frozen=True)
class JobRequest:
    """What a job asks for; every field may stand in the site's file, and be given by an option.

    Parameters
    ----------
    scheduler : str
        "slurm" or "pbs"; "" for the one whose commands are here.
    nodes, ranks_per_node : int
        The ranks.
    time : str
        The longest time of a job, [days-]hours:minutes:seconds.
    partition, account : str
        Where it waits, and who pays; the site's own defaults when empty. PBS calls the first one
        a queue.
    memory_per_node_mb : int
        Megabytes; 0 leaves it to the site.
    launcher : str
        "srun" or "mpiexec"; "" for what is usual with the scheduler.
    module : tuple of str
        Environment modules that the job loads.
    setup : tuple of str
        Lines of the job script before the ranks are started.
    option : tuple of str
        More of the scheduler's options, such as "--constraint=ib".
    template : str
        File of the script's template; Lockstep's own when empty.
    """

    scheduler: Literal["", "slurm", "pbs"] = ""
    nodes: _Count = 1
    ranks_per_node: _Count = 1
    time: str = "01:00:00"
    partition: str = ""
    account: str = ""
    memory_per_node_mb: Annotated[int, Meta(ge=0)] = 0
    launcher: Literal["", "srun", "mpiexec"] = ""
    module: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    option: tuple[str, ...] = ()
    template: str = ""

    def __post_init__(self) -> None:
        """See that what goes into the script's lines stays there.

        Raises
        ------
        ValueError
            Naming the field.
        """
        if seconds_of(self.time) in {None, 0.0}:
            raise ValueError(f"time: {self.time!r} is no [days-]hours:minutes:seconds")
        for name, value in dataclasses.asdict(self).items():
            for text in value if isinstance(value, tuple) else (str(value),):
                if "\n" in text:
                    raise ValueError(f"{name}: one line, please, not {text!r}")

    @property
    def num_ranks(self) -> int:
        """Of all nodes."""
        return self.nodes * self.ranks_per_node

    @property
    def time_s(self) -> int:
        """The longest time of a job in seconds."""
        return int(seconds_of(self.time) or 0)


def site_file() -> Path:
    """Return the file of the user's defaults for this site."""
    return Path(click.get_app_dir("lockstep")) / "site.toml"


def job_request(options: Mapping[str, Any], site: Path) -> JobRequest:
    """Put a request together: defaults, then the site's file, if there is one, then options.

    Parameters
    ----------
    options : mapping of str to object
        Fields that were given; None and empty ones were not.
    site : Path
        A TOML file of fields.

    Raises
    ------
    UserError
        Naming the file or option that won't do.
    """
    values = read_toml(site) if site.is_file() else {}
    for name in values:
        possible = [field.name for field in dataclasses.fields(JobRequest)]
        if name not in possible:
            raise UserError(f"{site}: {name}: no such field{near_misses(name, possible)}")
    request = _convert(values, f"{site}: ")
    given = {name: value for name, value in options.items() if value not in {None, "", ()}}
    return _convert(dataclasses.asdict(request) | given, "")


def _convert(values: Mapping[str, Any], where: str) -> JobRequest:
    try:
        return msgspec.convert(values, JobRequest)
    except msgspec.ValidationError as error:
        reason, _, field = str(error).replace("`", "").partition(" - at $.")
        kind = get_type_hints(JobRequest).get(field)
        if get_origin(kind) is Literal:
            reason += f", possible are {' and '.join(filter(None, get_args(kind)))}"
        raise UserError(f"{where}{f'{field}: ' if field else ''}{reason}.") from error


def quoted(text: object) -> str:
    """Return a word as a shell, sbatch and qsub read it."""
    return shlex.quote(str(text))
