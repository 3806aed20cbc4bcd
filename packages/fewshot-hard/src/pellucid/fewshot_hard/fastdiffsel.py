"""FastDiffSel (thesis algorithm 1): selection weights that raise the query loss, then the images of largest weight.

Tasks are worked on together and class by class: the weighted prototypes of all tasks that use a class are one product
with that class's embeddings, and so are the slopes by weights. Nothing is ever as large as tasks x images x dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .candidates import Candidates, Picks
from .projection import project_capped, project_l1
from .prototypes import Batch, Distance, Floats, gather, slopes, weight_slopes
from .tasks import Task

ALPHA = 200.0
"""The thesis's learning rate (appendix 11.3.1)."""

STEPS = 6
"""Of the variant with several."""


@dataclass(frozen=True)
class _Use:
    """The tasks that use a class: their places among the tasks (B,), the class's in each (B,), and what is free."""

    tasks: NDArray[np.int64]
    slots: NDArray[np.int64]
    shots: Floats
    allowed: NDArray[np.bool_]


def one_step(
    candidates: Candidates,
    tasks: Sequence[Task],
    distance: Distance,
    sign: int = 1,
    alpha: float = ALPHA,
    seed: int = 0,
) -> list[Picks]:
    """Return supports by algorithm 1: one ascent step from random weights, one projection, the k_j largest.

    Initial weights are uniform on [0, 1), drawn for each task from `seed` and the task's own seed. Soft-thresholding
    keeps the order of weights and only ties those at 0, which are then told apart by the unprojected weight, then by
    row.

    Args:
        candidates: of these tasks.
        tasks: T of them.
        distance: of the prototypes.
        sign: 1 to raise the loss, -1 to lower it.
        alpha: learning rate on the gradient of the SUMMED loss.
        seed: of the initial weights.
    """
    uses, weights = _begin(candidates, tasks, seed)
    batch = gather(candidates.pool, tasks, candidates.origin)
    prototypes, gradient = _climb(candidates, uses, weights, batch, distance)
    picks = _nothing(tasks)
    for c, use in uses.items():
        at = use.tasks, use.slots
        moved = weights[c] + sign * alpha * weight_slopes(
            candidates.images(c).features, weights[c], prototypes[at], gradient[at]
        )
        _place(picks, use, project_l1(moved, use.shots, use.allowed), moved)
    return picks


def several_steps(
    candidates: Candidates,
    tasks: Sequence[Task],
    distance: Distance,
    sign: int = 1,
    alpha: float = ALPHA,
    seed: int = 0,
    steps: int = STEPS,
) -> list[Picks]:
    """Return supports by several projected steps, then the k_j largest weights.

    Weights of a class stay in [0, 1] and sum to k_j (the convex hull of choices of k_j images), so that no prototype's
    denominator can vanish. Each class's gradient is divided by its largest entry, and a step moves the weight that it
    belongs to by alpha / 200: by 1, the whole range, at the default.

    Args: see `one_step`; `steps`, how many.
    """
    uses, weights = _begin(candidates, tasks, seed)
    weights = {c: project_capped(weights[c], use.shots, use.allowed) for c, use in uses.items()}
    batch = gather(candidates.pool, tasks, candidates.origin)
    picks = _nothing(tasks)
    for step in range(steps):
        prototypes, gradient = _climb(candidates, uses, weights, batch, distance)
        for c, use in uses.items():
            at = use.tasks, use.slots
            slope = weight_slopes(candidates.images(c).features, weights[c], prototypes[at], gradient[at])
            largest = np.abs(np.where(use.allowed, slope, 0.0)).max(axis=1, keepdims=True)
            moved = weights[c] + sign * alpha / ALPHA * slope / np.where(largest > 0, largest, 1.0)
            weights[c] = project_capped(moved, use.shots, use.allowed)
            if step == steps - 1:
                _place(picks, use, weights[c], moved)
    return picks


def _begin(candidates: Candidates, tasks: Sequence[Task], seed: int) -> tuple[dict[int, _Use], dict[int, Floats]]:
    """Return who uses which class, and the initial weights (B, D) of each class, 0 for what is not allowed."""
    found: dict[int, list[tuple[int, int, int, NDArray[np.bool_], Floats]]] = {}
    for t, task in enumerate(tasks):
        random = np.random.default_rng([seed, task.seed & (2**64 - 1)])
        for slot, (c, free) in enumerate(zip(task.classes, candidates.allowed(task), strict=True)):
            # Never exactly 0 all over, which would leave no prototype.
            drawn = np.where(free, 1 - random.random(len(free)), 0.0)
            found.setdefault(c, []).append((t, slot, task.shots[slot], free, drawn))
    uses, weights = {}, {}
    for c, each in sorted(found.items()):
        at, slots, shots, allowed, drawn_for = zip(*each, strict=True)
        uses[c] = _Use(np.array(at), np.array(slots), np.array(shots, dtype=np.float64), np.stack(allowed))
        weights[c] = np.stack(drawn_for)
    return uses, weights


def _climb(
    candidates: Candidates, uses: dict[int, _Use], weights: dict[int, Floats], batch: Batch, distance: Distance
) -> tuple[Floats, Floats]:
    """Return the weighted prototypes (T, N, d) and the loss's gradient by them."""
    prototypes = np.zeros((*batch.present.shape, batch.queries.shape[2]))
    for c, use in uses.items():
        held = weights[c] @ candidates.images(c).features
        prototypes[use.tasks, use.slots] = held / weights[c].sum(axis=1, keepdims=True)
    return prototypes, slopes(batch, prototypes, distance)[1]


def _nothing(tasks: Sequence[Task]) -> list[Picks]:
    return [[np.zeros(0, dtype=np.int64)] * task.way for task in tasks]


def _place(picks: list[Picks], use: _Use, weights: Floats, unprojected: Floats) -> None:
    """Enter the images of the k_j largest weights, ties by the unprojected weight, then by row."""
    first, second = np.where(use.allowed, weights, -np.inf), np.where(use.allowed, unprojected, -np.inf)
    order = np.lexsort((-second, -first), axis=-1)
    for t, slot, shots, row in zip(use.tasks, use.slots, use.shots, order, strict=True):
        picks[t][slot] = row[: int(shots)]
