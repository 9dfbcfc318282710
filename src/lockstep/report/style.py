"""How every plot looks: fonts, colours, line widths; and how it is saved."""

import warnings
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.figure import Figure

from lockstep.errors import UserError
from lockstep.files import atomic_path

# Okabe and Ito's palette, which readers with any colour vision can tell apart.
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
SKY, GREY = "#56B4E9", "#9A9A9A"
INK, FAINT, LINES, PALE = "#222222", "#767676", "#E4E4E4", "#D0D0D0"

SMALL = 8.0
POINTS_PER_INCH = 72

# DejaVu Sans comes with matplotlib; the others lend it what it lacks, as the names of KMNIST's
# classes, where they are installed. Naming an absent font would log a warning for every text.
_FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "IPAGothic", "Hiragino Sans", "Noto Sans")

# Any: matplotlib types the keys one by one, and each version knows others.
_STYLE: Any = {
    "figure.dpi": 120,
    "figure.facecolor": "white",
    "savefig.dpi": "figure",
    "savefig.facecolor": "white",
    "font.family": [name for name in _FONTS if name in font_manager.fontManager.get_font_names()],
    "font.size": 9.5,
    "text.color": INK,
    # A class may be called "$5 to $10"; that is no formula.
    "text.parse_math": False,
    "text.usetex": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": LINES,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 9,
}

# The decorator of every function that draws.
styled = mpl.rc_context(_STYLE)


@styled
def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, complete or not at all.

    Parameters
    ----------
    figure : Figure
        What to write.
    path : Path
        The destination. Its folder must exist.

    Raises
    ------
    UserError
        When `path` can't be written.
    """
    try:
        with atomic_path(path) as temporary, warnings.catch_warnings():
            # A character that no installed font has is drawn as a box, which says enough.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            figure.savefig(temporary, format="png")
    except OSError as error:
        raise UserError(f"Can't write {path}: {error.strerror}.") from error
