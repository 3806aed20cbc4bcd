"""Contact sheets: a task's support pictures a row a class, beside its query pictures with the mistakes framed."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import OptionError
from pellucid.core.figures import figure_style
from pellucid.core.report import Figure, new_figure

from .tasks import Task

Picture = Callable[[int], NDArray[np.uint8]]
"""From a row of the pool to its picture, (h, w) or (h, w, 3) uint8."""

WRONG = "#D00000"
_CELL = 0.52
"""Inches of a picture."""


def contact_sheet(
    task: Task,
    picture: Picture,
    classes: Sequence[str],
    predicted: NDArray[np.int64],
    name: str | None = None,
    *,
    support: int = 5,
    query: int = 8,
    ways: int = 10,
) -> Figure:
    """Draw a task: each class's support pictures, then its query pictures; wrongly classified ones are framed in red.

    Args:
        task: to draw.
        picture: gives the picture of a row.
        classes: the pool's class names.
        predicted: (query images,) the task's label (0 to N-1) that a classifier gives each query image, class after
            class, as `flat(task.query)` lists them.
        name: of the figure's file; `sheet-KIND` where None.
        support: at most so many support pictures of a class.
        query: at most so many query pictures of a class; wrong ones come first where not all fit.
        ways: at most so many classes, the first ones.

    Raises:
        OptionError: there is not one prediction for each query image.
    """
    sizes = [len(rows) for rows in task.query]
    if len(predicted) != sum(sizes):
        raise OptionError(f"there are {len(predicted)} predictions for {sum(sizes)} query images: give one for each")
    given = np.split(np.asarray(predicted), np.cumsum(sizes)[:-1])
    ways = min(ways, task.way)
    support = min(support, max(task.shots[:ways]))
    query = min(query, max(sizes[:ways]))
    names = [classes[label] for label in task.classes]
    canvas, grid = new_figure(
        rows=ways,
        columns=support + query + 1,
        width=1.6 + _CELL * (support + query + 1),
        height=0.4 + 1.35 * _CELL * ways,
    )
    grid = np.asarray(grid).reshape(ways, support + query + 1)
    with figure_style():
        canvas.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.set_frame_on(False)
        for line in range(ways):
            _label(grid[line, 0], names[line])
            for place, row in enumerate(task.support[line][:support]):
                _draw(grid[line, place], picture(row))
            # Wrong ones first, each in its own order.
            order = (
                np.argsort(given[line] == line, kind="stable")[:query] if sizes[line] > query else range(sizes[line])
            )
            for place, index in enumerate(order):
                axes = grid[line, support + 1 + place]
                _draw(axes, picture(task.query[line][int(index)]))
                said = int(given[line][int(index)])
                if said != line:
                    _frame(axes)
                # A blank keeps the lines evenly apart.
                axes.set_xlabel(" " if said == line else _short(names[said]), fontsize=7, color=WRONG, labelpad=2)
        grid[0, 0].set_title("support", fontsize=10, loc="left")
        grid[0, support + 1].set_title("query", fontsize=10, loc="left")
    wrong = sum(int((each != line).sum()) for line, each in enumerate(given))
    return Figure(
        name or f"sheet-{task.kind}",
        canvas,
        f"One {task.kind} task: support pictures of each class, and query pictures. Framed in red: those taken for "
        "another class, whose name stands below.",
        f"Contact sheet of {ways} of {task.way} classes ({', '.join(names[:ways])}): {wrong} of {sum(sizes)} query "
        "images are classified wrongly.",
    )


def _draw(axes: Any, shown: NDArray[np.uint8]) -> None:
    axes.imshow(shown, cmap="gray" if shown.ndim == 2 else None, vmin=0, vmax=255, interpolation="nearest")


def _frame(axes: Any) -> None:
    axes.set_frame_on(True)
    for spine in axes.spines.values():
        spine.set(visible=True, color=WRONG, linewidth=2.5)


def _label(axes: Any, name: str) -> None:
    axes.set_ylabel(_short(name, 18), fontsize=9, rotation=0, ha="right", va="center", labelpad=6)


def _short(name: str, most: int = 12) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
