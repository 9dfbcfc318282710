"""A progress bar for long work, on terminals only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


@contextmanager
def progress(label: str, total: int | None, unit: str) -> Iterator[Callable[[int], object]]:
    """Show how far some work is; silent when standard error is no terminal.

    Parameters
    ----------
    label : str
        What is done.
    total : int or None
        How many units there are, if that is known.
    unit : str
        A word for one.

    Yields
    ------
    callable
        To be told how many units were done since the last call.
    """
    with tqdm(
        total=total, desc=label, unit=unit, unit_scale=True, disable=None, leave=False
    ) as bar:
        yield bar.update
