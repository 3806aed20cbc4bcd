"""One look for all figures, drawn on matplotlib's object-oriented interface: no pyplot, no global state."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's colours, without the yellow that vanishes on white: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

_STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "image.cmap": "cividis",
    "lines.linewidth": 2,
    "figure.constrained_layout.h_pad": 0.1,
    "figure.constrained_layout.w_pad": 0.1,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@contextmanager
def figure_style() -> Iterator[None]:
    """Draw within the block in Pellucid's style; matplotlib's own settings come back after it."""
    import matplotlib
    from cycler import cycler

    with matplotlib.rc_context(_STYLE | {"axes.prop_cycle": cycler(color=COLOURS)}):
        yield


def new_figure(rows: int = 1, columns: int = 1, width: float = 6.4, height: float = 3.8) -> "tuple[Figure, Any]":
    """Return a figure and its axes: one, or an array of them as from `Figure.subplots`.

    Colours, sizes and layout are set here; draw within `figure_style()` too where legends or images are added.

    Args:
        rows: of axes.
        columns: of axes.
        width: in inches; 6.4 fills a page's column.
        height: in inches.
    """
    from matplotlib.figure import Figure

    with figure_style():
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns)
