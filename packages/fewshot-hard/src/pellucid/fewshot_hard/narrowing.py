"""Only what some tasks use of a pool: its rows, and the tasks over these rows."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .tasks import Rows, Task


def used_rows(tasks: Sequence[Task]) -> NDArray[np.int64]:
    """Return the rows that the tasks use, ascending (m,)."""
    used = {row for task in tasks for part in (task.support, task.query) for rows in part for row in rows}
    return np.array(sorted(used), dtype=np.int64)


def placed(tasks: Sequence[Task], rows: NDArray[np.int64]) -> list[Task]:
    """Return the tasks with places in `rows` (ascending, holding all that they use) instead of rows of the pool."""

    def part(given: tuple[Rows, ...]) -> tuple[Rows, ...]:
        return tuple(tuple(np.searchsorted(rows, each).tolist()) for each in given)

    return [replace(task, support=part(task.support), query=part(task.query)) for task in tasks]
