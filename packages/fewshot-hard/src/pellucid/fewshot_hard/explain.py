"""Why tasks are hard: how the properties of support images differ from those of query images (thesis 4.5.3)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import DataError
from pellucid.core.statistics import Estimate, Estimates, bootstrap_difference, bootstrap_means

from .pools import Pool
from .tasks import Task

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Composition:
    """The annotated properties of T tasks' images, by annotation (A of them).

    Attributes:
        annotations: names, in the pool's order.
        support: (A,) mean share of a task's support images that have the property.
        query: (A,) the same of its query images.
        gap: (A,) mean of the signed difference, support - query.
        size: (A,) mean of the difference's absolute value, which fig. 4.5 (right) shows.
        gaps: (T, A) the difference of each task.
        queries: the tasks' query sets, by which `compare` sees whether tasks pair up.
    """

    annotations: tuple[str, ...]
    support: Estimates
    query: Estimates
    gap: Estimates
    size: Estimates
    gaps: Floats
    queries: tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True)
class Contrast:
    """Mean |gap| of hard tasks minus that of easy ones: above 0 where hard tasks are the more mismatched.

    Attributes:
        annotations: names.
        difference: an estimate for each.
        overall: of each task's |gap| averaged over all annotations.
        paired: whether hard and easy tasks have the same query sets, and were compared one by one.
    """

    annotations: tuple[str, ...]
    difference: tuple[Estimate, ...]
    overall: Estimate
    paired: bool


def composition(pool: Pool, tasks: Sequence[Task], seed: int = 0) -> Composition:
    """Return the shares of annotated images in support and query (thesis 4.5.3, fig. 4.5).

    Shares are of all of a task's support (or query) images together; 95% intervals are bootstrapped over tasks.

    Args:
        pool: with annotations.
        tasks: of this pool.
        seed: of the bootstrap.

    Raises:
        DataError: the pool has no annotations, or there are no tasks.
    """
    if not pool.annotations:
        raise DataError("the pool has no annotations to compare: give one with a column of 0 and 1 for each property")
    if not tasks:
        raise DataError("there are no tasks to compare: give at least one")
    names = tuple(pool.annotations)
    marks = np.stack([np.asarray(pool.annotations[name], dtype=np.float64) for name in names], axis=1)
    support = np.stack([marks[[row for rows in task.support for row in rows]].mean(axis=0) for task in tasks])
    query = np.stack([marks[[row for rows in task.query for row in rows]].mean(axis=0) for task in tasks])
    gaps = support - query
    means = bootstrap_means(np.stack([support, query, gaps, np.abs(gaps)], axis=1), seed)
    shares, queries, gap, size = (Estimates(means.value[i], means.low[i], means.high[i]) for i in range(4))
    return Composition(names, shares, queries, gap, size, gaps, tuple(task.query for task in tasks))


def compare(hard: Composition, easy: Composition, seed: int = 0) -> Contrast:
    """Return by how much the mismatch of support and query is larger in hard tasks than in easy ones.

    Args:
        hard: of hard tasks.
        easy: of easy (or default) tasks of the same pool; where the query sets are the same, one by one, the
            differences are paired.
        seed: of the bootstrap.

    Raises:
        DataError: the two have different annotations.
    """
    if hard.annotations != easy.annotations:
        raise DataError(
            f"one composition is of {', '.join(hard.annotations)}, the other of {', '.join(easy.annotations)}: "
            "give two of one pool"
        )
    paired = hard.queries == easy.queries
    first, second = np.abs(hard.gaps), np.abs(easy.gaps)
    return Contrast(
        hard.annotations,
        tuple(
            bootstrap_difference(first[:, column], second[:, column], seed, paired=paired)
            for column in range(first.shape[1])
        ),
        bootstrap_difference(first.mean(axis=1), second.mean(axis=1), seed, paired=paired),
        paired,
    )
