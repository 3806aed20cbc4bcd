"""Sheets of pictures: what components retrieve, and heat maps on pictures."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pellucid.core.figures import figure_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

_CELL = 1.15
"""Inches of a picture."""


def retrieval_sheet(rows: Sequence[tuple[str, Sequence["Image"]]], headings: Sequence[str], title: str) -> "Figure":
    """Pictures in rows, each with its name on the left (thesis figures 7.3 and 7.4).

    Args:
        rows: a name and its pictures; as many as there are headings, or fewer.
        headings: of the columns.
        title: above all.
    """
    figure, grid = _grid(len(rows), len(headings), title)
    with figure_style():
        for line, (name, pictures) in enumerate(rows):
            for column, axes in enumerate(grid[line]):
                if column < len(pictures):
                    axes.imshow(np.asarray(pictures[column]), interpolation="nearest")
                if line == 0:
                    axes.set_title(headings[column], fontsize=8)
            grid[line, 0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    return figure


def heat_sheet(pictures: Sequence["Image"], maps: np.ndarray, heads: Sequence[str], title: str) -> "Figure":
    """Each picture in a row, bare and under each head's heat map: red adds to the text, blue works against it.

    Args:
        pictures: as the model sees them.
        maps: (heads, pictures, height, width).
        heads: their names.
        title: above all.
    """
    figure, grid = _grid(len(pictures), 1 + len(heads), title)
    with figure_style():
        for line, picture in enumerate(pictures):
            grid[line, 0].imshow(np.asarray(picture), interpolation="nearest")
            for column in range(len(heads)):
                one = maps[column, line]
                limit = float(np.abs(one).max()) or 1.0
                small = picture.convert("L").resize((one.shape[1], one.shape[0]))
                axes = grid[line, 1 + column]
                axes.imshow(np.asarray(small), cmap="gray", vmin=0, vmax=255)
                axes.imshow(one, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=0.65)
        for column, name in enumerate(("picture", *heads)):
            grid[0, column].set_title(_folded(name), fontsize=7)
    return figure


def _grid(rows: int, columns: int, title: str) -> tuple["Figure", Any]:
    figure, axes = new_figure(
        rows=rows, columns=columns, width=max(6.4, 1.3 + _CELL * columns), height=0.7 + 1.25 * _CELL * rows
    )
    grid = np.asarray(axes).reshape(rows, columns)
    with figure_style():
        for one in grid.flat:
            one.set(xticks=[], yticks=[])
            one.set_frame_on(False)
        figure.suptitle(title, fontsize=11)
    return figure, grid


def _folded(name: str) -> str:
    """A long component's name on lines."""
    parts = name.split(".")
    return name if len(name) < 16 else ".".join(parts[: len(parts) // 2]) + ".\n" + ".".join(parts[len(parts) // 2 :])
