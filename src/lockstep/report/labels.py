"""Names and numbers as a reader wants them."""

from collections.abc import Sequence

MISSING = "\N{EN DASH}"


def shorten(name: object, width: int) -> str:
    """Return a name in one line of at most `width` characters.

    The middle is left out rather than the end: long class names often differ in their ends only.

    Parameters
    ----------
    name : object
        Anything with a text form.
    width : int
        The most characters to return.

    Returns
    -------
    str
        The name, without control characters, which could move a terminal's cursor.
    """
    printable = "".join(letter if letter.isprintable() else " " for letter in str(name))
    line = " ".join(printable.split())
    if len(line) <= width:
        return line
    tail = (width - 1) // 3
    head = width - 1 - tail
    return f"{line[:head].rstrip()}…{line[len(line) - tail :].lstrip()}"


def number(value: object, spec: str = "") -> str:
    """Format a number, or a dash where there is none.

    Parameters
    ----------
    value : object
        A number, None, or whatever else stands in the file.
    spec : str
        How to format a number, as in `format(value, spec)`.
    """
    if value is None:
        return MISSING
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return format(value, spec)


def duration(seconds: float | None) -> str:
    """Format a time span in the units that fit it."""
    if seconds is None:
        return MISSING
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def name_of(index: int, class_names: Sequence[str]) -> str:
    """Return the name of a class, or its index where it has none."""
    return str(class_names[index]) if 0 <= index < len(class_names) else str(index)
