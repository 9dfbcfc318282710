"""The colours of those that are compared, the same in every plot."""

from lockstep.bench.contestants import LOCKSTEP, PRODUCTS
from lockstep.report import style

_COLORS = {
    PRODUCTS: style.FAINT,
    LOCKSTEP: style.BLUE,
    "PyTorch-eager": style.VERMILION,
    "PyTorch-compiled": style.VERMILION,
    "scikit-learn": style.ORANGE,
    "JAX": style.GREEN,
    "per-sample": style.SKY,
}


def color_of(contestant: str) -> str:
    """Return the colour of a contestant."""
    return _COLORS.get(contestant, style.INK)
