"""Job scripts, made of templates."""

from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined, TemplateError

from lockstep.cluster.request import JobRequest, quoted
from lockstep.cluster.scheduler import Scheduler
from lockstep.errors import UserError


def job_script(
    request: JobRequest, scheduler: Scheduler, words: dict[str, object], command: list[str]
) -> str:
    """Return the script of a job.

    Parameters
    ----------
    request : JobRequest
        What is asked for.
    scheduler : Scheduler
        Whom.
    words : dict of str to object
        More for the template.
    command : list of str
        What each rank does, for the end of the script.

    Raises
    ------
    UserError
        When the site's template can't be read, or is none.
    """
    environment = Environment(  # noqa: S701 - no HTML
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters["quoted"] = quoted
    name = request.template or scheduler.template
    try:
        template = environment.from_string(_template_text(request, scheduler))
        return template.render(
            vars(request)
            | {"time_s": request.time_s}
            | {"walltime": _walltime(request.time_s), "command": command}
            | {"launcher": request.launcher or scheduler.launcher, "scheduler": scheduler.name}
            | words
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise UserError(f"The template {name} won't do: {str(error).rstrip('.')}.") from error


def _template_text(request: JobRequest, scheduler: Scheduler) -> str:
    if not request.template:
        templates = files("lockstep.cluster").joinpath("templates")
        return templates.joinpath(scheduler.template).read_text(encoding="utf-8")
    try:
        return Path(request.template).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Can't read the template {request.template}: {error}.") from error


def _walltime(seconds: int) -> str:
    """Return hours, minutes and seconds, as all schedulers read them."""
    minutes, s = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{s:02}"
