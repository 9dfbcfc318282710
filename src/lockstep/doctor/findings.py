"""What has been found on a machine, and how it is told."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import click

Severity = Literal["ok", "note", "warning", "broken"]

_COLORS = {"ok": "green", "note": "cyan", "warning": "yellow", "broken": "red"}
_INDENT, _WIDTH = " " * 11, 100


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Parameters
    ----------
    severity : str
        "ok"; "note": good to know; "warning": works, but slower or riskier than it might be;
        "broken": doesn't work.
    topic : str
        What it belongs to.
    text : str
        What was found: a paragraph, and after a line feed a table, perhaps.
    remedy : str
        What to do about it; empty where there is nothing to do.
    figures : dict
        What was measured, for programs.
    """

    severity: Severity
    topic: str
    text: str
    remedy: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        paragraph, _, table = self.text.partition("\n")
        lines = [_wrapped(paragraph, _INDENT), *(_INDENT + line for line in table.splitlines())]
        if self.remedy:
            lines.append(_wrapped(self.remedy, f"{_INDENT}-> ", f"{_INDENT}   "))
        severity = click.style(f"{self.severity:9}", fg=_COLORS[self.severity])
        return f"  {severity}" + "\n".join(lines).lstrip()


def are_usable(findings: Sequence[Finding]) -> bool:
    """Tell whether nothing is broken."""
    return all(finding.severity != "broken" for finding in findings)


def summary(findings: Sequence[Finding]) -> str:
    """Return a last line: how many findings there are to look at."""
    counts = [
        f"{number} {name}"
        for severity, name in (("broken", "broken"), ("warning", "to mend"), ("note", "to note"))
        if (number := sum(finding.severity == severity for finding in findings))
    ]
    head = f"{len(findings)} finding{'s' * (len(findings) != 1)}"
    return f"{head}: {', '.join(counts) or 'all is fine'}."


def content(findings: Sequence[Finding]) -> dict[str, Any]:
    """Return all findings for a JSON file."""
    return {
        "usable": are_usable(findings),
        "findings": [asdict(finding) for finding in findings],
    }


def _wrapped(text: str, first_indent: str, indent: str | None = None) -> str:
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent=first_indent,
        subsequent_indent=first_indent if indent is None else indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
