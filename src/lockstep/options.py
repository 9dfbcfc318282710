"""The fields of the configuration as options of commands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import click

from lockstep.config import FIELDS, Config, FieldInfo, load_config, option_name
from lockstep.errors import UserError
from lockstep.storage.run_folder import RunFolder

Command = TypeVar("Command", bound=Callable[..., object])


class ConfiguredCommand(click.Command):
    """Shows the configuration's fields by section in the help."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then those of each section."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                info = FIELDS.get(parameter.name or "")
                title = f"Configuration [{info.section}]" if info else "Options"
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


def configuration_options(command: Command) -> Command:
    """Give a command one option per field of the configuration; their texts are checked later."""
    for info in reversed(FIELDS.values()):
        default = ",".join(map(str, info.default)) if info.is_list else info.default
        shown = f"{info.description}  [default: {default}]" if default != "" else info.description
        add = click.option(
            option_name(info.name),
            info.name,
            metavar=_metavar(info),
            help=shown,
            shell_complete=partial(_complete, info.choices),
        )
        command = add(command)
    return command


def _complete(
    choices: tuple[str, ...], _context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[str]:
    return [choice for choice in choices if choice.startswith(incomplete)]


def _metavar(info: FieldInfo) -> str:
    if "|" in info.type_name:
        return f"[{info.type_name}]"
    return "N,N,..." if info.is_list else info.type_name.upper().replace(" ", "_")


@dataclass(frozen=True)
class Source:
    """What of a configuration the command line names.

    Parameters
    ----------
    file : Path or None
        A TOML file.
    options : dict of str to str
        Fields and their values.
    """

    file: Path | None
    options: dict[str, str]


def configure(
    arguments: tuple[str, ...],
    fields: dict[str, str | None],
    resume: Path | None,
    *,
    is_file_welcome: bool = False,
) -> tuple[Config, Source]:
    """Return the configuration, and what of it the command line names.

    Parameters
    ----------
    arguments : tuple of str
        A file, and options that click doesn't know.
    fields : dict of str to str or None
        The options.
    resume : Path or None
        The folder of a run that goes on with its own configuration.
    is_file_welcome : bool
        Whether a file may be named all the same; what stands in it wins.

    Raises
    ------
    UserError
        When anything of it won't do.
    """
    config_file, unknown = _config_file(arguments)
    if resume and config_file and not is_file_welcome:
        raise UserError(
            f"--resume goes on with the configuration in {resume}, so drop {config_file}. "
            "To begin a new run, drop --resume."
        )
    options = {name: text for name, text in fields.items() if text is not None} | unknown
    source = Source(config_file, options)
    if resume:
        return load_config(RunFolder.open(resume).config, options, config_file), source
    return load_config(config_file, options), source


def option_words(fields: Mapping[str, str | None]) -> list[str]:
    """Return configuration options as they are given on the command line."""
    given = {name: text for name, text in fields.items() if text is not None}
    return [f"{option_name(name)}={text}" for name, text in given.items()]


def _config_file(arguments: tuple[str, ...]) -> tuple[Path | None, dict[str, str]]:
    """Tell the configuration file from the options that click doesn't know, and their values."""
    files, unknown = [], {}
    remaining = list(arguments)
    while remaining:
        word = remaining.pop(0)
        if word.startswith("-"):
            name, has_value, value = word.partition("=")
            if not has_value and remaining and not remaining[0].startswith("-"):
                value = remaining.pop(0)
            unknown[name] = value
        else:
            files.append(word)
    for name in files:
        if name.endswith((".h5", ".hdf5")):
            raise UserError(
                f"{name} looks like a data set and no configuration: use --data {name}."
            )
    if len(files) > 1:
        raise UserError(f"One configuration file at the most, please, not {' and '.join(files)}.")
    return (Path(files[0]) if files else None), unknown
