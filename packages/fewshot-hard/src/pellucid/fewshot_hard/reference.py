"""The slow, obvious twins of the fast paths: for tests, for the benchmark, and for checking one's own data."""

import numpy as np
from numpy.typing import NDArray

from .candidates import Candidates
from .greedy import best
from .prototypes import Distance, Floats, cross_entropies, logits
from .tasks import Task, flat


def project_l1_sorted(weights: NDArray[np.floating], radius: float) -> Floats:
    """Return the nearest point of the l1 ball by sorting (Duchi et al., 2008, figure 1), one row (M,) in float64.

    Sizes are counted from the largest, which changes nothing but rounding.
    """
    values = np.asarray(weights, dtype=np.float64)
    sizes = np.abs(values)
    if sizes.sum() <= radius:
        return values.copy()
    if radius == 0:
        return np.zeros_like(values)
    below = np.sort(sizes - sizes.max())[::-1]
    levels = (np.cumsum(below) - radius) / np.arange(1, len(below) + 1)
    level = levels[np.flatnonzero(below > levels)[-1]]
    return np.sign(values) * np.maximum(sizes - sizes.max() - level, 0)


def greedy_slow(
    candidates: Candidates, task: Task, distance: Distance, sign: int = 1, rounds: int = 3
) -> tuple[tuple[int, ...], ...]:
    """Return what `greedy.greedy` does, by one adaptation and one query loss for each candidate of each slot.

    This is the search whose time the thesis compares with (4.3.1: N k d r adaptations).
    """
    images = [candidates.images(c) for c in task.classes]
    allowed = candidates.allowed(task)
    picks = candidates.start(task, allowed)
    rows, asked = flat(task.query)
    queries, labels = candidates.pool.embeddings[rows] - candidates.origin, np.array(asked)

    def loss() -> float:
        prototypes = np.stack([each.features[p].mean(axis=0) for each, p in zip(images, picks, strict=True)])
        return float(cross_entropies(logits(queries, prototypes, distance), labels).sum())

    for _ in range(rounds):
        for label, support in enumerate(picks):
            for slot in range(len(support)):
                old = int(support[slot])
                free = allowed[label].copy()
                free[support] = False
                places = np.flatnonzero(free | (np.arange(len(free)) == old))
                worth = np.empty(len(places))
                for i, place in enumerate(places):
                    support[slot] = place
                    worth[i] = sign * loss()
                support[slot] = best(worth, places, old, free)
    return candidates.rows(task, picks)
