"""What several rounds of a measurement have given."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


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

    def text(self, factor: float = 1.0) -> str:
        """Write it as `median (lowest to highest)`, times a factor."""
        middle, *ends = (
            f"{value * factor:.2f}" for value in (self.median, self.lowest, self.highest)
        )
        return f"{middle} ({' to '.join(ends)})"


def paired_ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratio of each round: what slows a whole round down doesn't change it."""
    return [a / b for a, b in zip(numerators, denominators, strict=True)]
