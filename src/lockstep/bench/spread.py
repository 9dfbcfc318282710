"""What several rounds of a measurement have given."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

_UNITS = ((1.0, " s"), (1e3, " ms"), (1e6, " µs"))


@dataclass(frozen=True)
class Spread:
    """The middle and the ends of some numbers."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Return that of at least one number."""
        return cls(median(values), min(values), max(values))

    def text(self, factor: float = 1.0, unit: str = "", num_decimals: int = 2) -> str:
        """Write it as `median unit (lowest to highest)`, times a factor."""
        middle, *ends = (
            f"{value * factor:.{num_decimals}f}"
            for value in (self.median, self.lowest, self.highest)
        )
        return f"{middle}{unit} ({' to '.join(ends)})"

    def seconds_text(self) -> str:
        """Write seconds with three digits of the median, in the unit that suits it."""
        factor, unit, num_decimals = _form(self.median)
        return self.text(factor, unit, num_decimals)


def seconds_text(seconds: float) -> str:
    """Write seconds with three digits, in the unit that suits them: `34.5 ms`."""
    factor, unit, num_decimals = _form(seconds)
    return f"{seconds * factor:.{num_decimals}f}{unit}"


def _form(seconds: float) -> tuple[float, str, int]:
    """Return factor, unit and number of decimals."""
    factor, unit = next((f, u) for f, u in _UNITS if seconds * f >= 1 or u == " µs")
    return factor, unit, max(0, 3 - len(str(int(seconds * factor))))


def paired_ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratio of each round: what slows a whole round down doesn't change it."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]
