"""What a task's support may be chosen from: the images of its classes whose content no query shows (thesis 4.3.1).

Embeddings are read a class at a time, and those of the classes last used are kept: memory follows the classes that
tasks are about, never the pool.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import DataError

from .pools import Pool
from .prototypes import Distance, Floats, origin_of
from .tasks import Task

Picks = list[NDArray[np.int64]]
"""For each class of a task, places in its `ClassImages`."""

_KEPT = 1 << 28
"""Bytes of embeddings and products that are kept for the next task."""

_GRAM = 1024
"""Classes of at most so many images keep all products of their embeddings."""


@dataclass(frozen=True, eq=False)
class ClassImages:
    """The images of one class, each content once.

    Attributes:
        rows: (D,) of the pool, ascending; of rows with equal content only the first.
        features: (D, d) float64, less the origin.
    """

    rows: NDArray[np.int64]
    features: Floats

    @cached_property
    def squares(self) -> Floats:
        """(D,) squared lengths."""
        return np.einsum("ij,ij->i", self.features, self.features)

    @cached_property
    def _gram(self) -> Floats:
        return self.features @ self.features.T

    def products(self, places: NDArray[np.int64]) -> Floats:
        """Return (..., D): the products of the images at some places (...) with all of the class."""
        return self._gram[places] if len(self.rows) <= _GRAM else self.features[places] @ self.features.T

    @property
    def nbytes(self) -> int:
        """Bytes that this may come to hold."""
        return self.features.nbytes + (8 * len(self.rows) ** 2 if len(self.rows) <= _GRAM else 0)


class Candidates:
    """What some tasks may choose from.

    Args:
        pool: where from.
        tasks: whose classes are looked at.
        distance: euclidean embeddings are counted from `origin`, which changes no distance.

    Raises:
        DataError: a task's row is not in the pool, or not of the class that the task says.
    """

    def __init__(self, pool: Pool, tasks: Sequence[Task], distance: Distance) -> None:
        self.pool = pool
        self.origin = origin_of(pool, distance)
        self._kept: dict[int, ClassImages] = {}
        for task in tasks:
            _check(pool, task)
        used = sorted({c for task in tasks for c in task.classes})
        self._contents = {c: pool.content_of(pool.members[c]) for c in used}
        self._firsts = {c: np.sort(np.unique(hashes, return_index=True)[1]) for c, hashes in self._contents.items()}
        # Sorted hashes of each class's candidates, and which candidate each is.
        self._sorted: dict[int, tuple[NDArray[np.uint64], NDArray[np.int64]]] = {}
        for c, firsts in self._firsts.items():
            order = np.argsort(self._contents[c][firsts])
            self._sorted[c] = self._contents[c][firsts][order], order
        every = [hashes for hashes, _ in self._sorted.values()] or [np.zeros(0, dtype=np.uint64)]
        once, count = np.unique(np.concatenate(every), return_counts=True)
        self._shared = once[count > 1]

    def images(self, label: int) -> ClassImages:
        """Return the images of a class, read now or kept from before."""
        if label in self._kept:
            self._kept[label] = self._kept.pop(label)
        else:
            rows = self.pool.members[label][self._firsts[label]]
            self._kept[label] = ClassImages(rows, self.pool.embeddings[rows] - self.origin)
            while len(self._kept) > 1 and sum(images.nbytes for images in self._kept.values()) > _KEPT:
                del self._kept[next(iter(self._kept))]
        return self._kept[label]

    def allowed(self, task: Task) -> list[NDArray[np.bool_]]:
        """Return for each class (D,) whether an image may be in the support.

        It may not where its content is that of a query of any class. What two classes of the task hold goes to the one
        that has it in the earlier row.

        Raises:
            DataError: a class has fewer such images than its shots.
        """
        shown = np.concatenate([self._hashes(c, rows) for c, rows in zip(task.classes, task.query, strict=True)])
        first = self._first_rows(task)
        found = []
        for c, shots, query in zip(task.classes, task.shots, task.query, strict=True):
            hashes, order = self._sorted[c]
            at = np.minimum(np.searchsorted(hashes, shown), len(hashes) - 1)
            found.append(np.ones(len(hashes), dtype=bool))
            found[-1][order[at[hashes[at] == shown]]] = False
            for place, row, content in self._held_twice(c):
                found[-1][place] &= first[content] == row
            if (left := int(found[-1].sum())) < shots:
                raise DataError(
                    f"class {self.pool.classes[c]!r} has {len(self._contents[c])} images, of which {left} are left for "
                    f"{shots} shots beside {len(query)} queries and copies: sample fewer shots or queries, or no such "
                    "class"
                )
        return found

    def start(self, task: Task, allowed: Sequence[NDArray[np.bool_]]) -> Picks:
        """Return the task's own support; an image that may not stand there gives way to the first free one."""
        picks = []
        for c, support, free in zip(task.classes, task.support, allowed, strict=True):
            hashes, order = self._sorted[c]
            places = order[np.searchsorted(hashes, self._hashes(c, support))]
            left, mine = free.copy(), []
            for place in places:
                if left[place]:
                    left[place] = False
                    mine.append(int(place))
            spare = np.flatnonzero(left)[: len(support) - len(mine)]
            picks.append(np.array([*mine, *spare], dtype=np.int64))
        return picks

    def rows(self, task: Task, picks: Sequence[NDArray[np.int64]]) -> tuple[tuple[int, ...], ...]:
        """Return a support as rows of the pool."""
        return tuple(
            tuple(int(row) for row in self.pool.members[c][self._firsts[c][places]])
            for c, places in zip(task.classes, picks, strict=True)
        )

    def _held_twice(self, label: int) -> list[tuple[int, int, int]]:
        """Return (place, row, content) of the images of a class that another class in use holds as well."""
        if not len(self._shared):
            return []
        hashes, order = self._sorted[label]
        twice = order[np.isin(hashes, self._shared)]
        rows = self.pool.members[label][self._firsts[label][twice]]
        return list(zip(twice.tolist(), rows.tolist(), self.pool.content_of(rows).tolist(), strict=True))

    def _first_rows(self, task: Task) -> dict[int, int]:
        """Return the earliest row of each content that more than one class holds, among the classes of the task."""
        rows: dict[int, int] = {}
        for c in task.classes:
            for _, row, content in self._held_twice(c):
                rows[content] = min(row, rows.get(content, row))
        return rows

    def _hashes(self, label: int, rows: Sequence[int]) -> NDArray[np.uint64]:
        return self._contents[label][np.searchsorted(self.pool.members[label], np.asarray(rows))]


def _check(pool: Pool, task: Task) -> None:
    """Raise a DataError unless a task's rows are the pool's, of the classes that the task says."""
    if not all(0 <= c < len(pool.classes) for c in task.classes):
        raise DataError(f"a task has the classes {task.classes} and the pool {len(pool.classes)}: they do not fit")
    for part in (task.support, task.query):
        for c, rows in zip(task.classes, part, strict=True):
            for row in rows:
                if not 0 <= row < len(pool) or pool.labels[row] != c:
                    raise DataError(
                        f"a task takes row {row} for an image of class {pool.classes[c]!r}, which it is not in this "
                        "pool: use the pool that the task was sampled from"
                    )
