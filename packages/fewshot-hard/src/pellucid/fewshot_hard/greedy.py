"""Greedy search (Agarwal et al., "On sensitivity of meta-learning to support data"): the thesis's baseline, made fast.

In each round every support slot of every class is given to the image that makes the query loss largest. Only one
column of the query's logits changes with a slot, and it follows from products of embeddings taken once: for Q queries
and D candidates a slot costs Q x D exponentials, whatever the dimension. The slow twin is `reference.greedy_slow`.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .candidates import Candidates, Picks
from .prototypes import SCALE, Distance, Floats, cross_entropies, logit_slopes, unit
from .tasks import Task, flat

TOLERANCE = 1e-9
"""Relative; losses closer than this count as equal, and of equal candidates the first is taken."""

_TOGETHER = 512
"""Factors of at most 2 that are multiplied before a logarithm is taken."""


class Board:
    """The query loss of one task as images are moved into and out of its support.

    Args:
        candidates: of this task.
        task: its queries and shots.
        distance: of the prototypes.
        sign: 1 where large losses are wanted, -1 where small ones are.

    Attributes:
        images: of each class.
        allowed: (D_j,) for each class, what may be in the support.
        shots: of each class.
        queries: (Q, d), of length one where cosines are taken.
        labels: (Q,) the task's own labels, ascending.
        picks: (k_j,) places in each class's images: the support.
    """

    def __init__(self, candidates: Candidates, task: Task, distance: Distance, sign: int = 1) -> None:
        self.images = [candidates.images(c) for c in task.classes]
        self.allowed = candidates.allowed(task)
        self.shots = task.shots
        self.distance, self.sign = distance, sign
        rows, labels = flat(task.query)
        self.labels = np.array(labels)
        self.queries = candidates.pool.embeddings[rows] - candidates.origin
        if distance == "cosine":
            self.queries = unit(self.queries)
        self._cross = [self.queries @ images.features.T for images in self.images]
        ends = np.cumsum([0, *(len(each) for each in task.query)])
        self._own = [slice(a, b) for a, b in pairwise(ends)]
        self.picks: Picks = []

    def place(self, picks: Sequence[NDArray[np.int64]]) -> None:
        """Set the whole support."""
        self.picks = [places.copy() for places in picks]
        # Of the sum s of each class's support: its products with the class's images, itself and the queries.
        self._sums = [m.products(p).sum(axis=0) for m, p in zip(self.images, self.picks, strict=True)]
        self._squares = [float(sums[p].sum()) for sums, p in zip(self._sums, self.picks, strict=True)]
        self._asked = [cross[:, p].sum(axis=1) for cross, p in zip(self._cross, self.picks, strict=True)]
        columns = [self._logits(j, self._asked[j], self._squares[j]) for j in range(len(self.picks))]
        self._scores = np.stack(columns, axis=1)
        self._settled = 0

    @property
    def loss(self) -> float:
        """The summed query loss of the support as it stands."""
        return float(cross_entropies(self._scores, self.labels).sum())

    @property
    def errors(self) -> int:
        """Queries whose nearest prototype is not their own class's."""
        return int((self._scores.argmax(axis=1) != self.labels).sum())

    def losses(self, label: int, slot: int, places: NDArray[np.int64] | None = None) -> Floats:
        """Return the query loss with each candidate in one slot, all else unchanged.

        Args:
            label: the task's own label of the class.
            slot: which of its shots.
            places: which candidates; by default all (D,) of the class.
        """
        images, old = self.images[label], int(self.picks[label][slot])
        cross, sums, squares = self._cross[label], self._sums[label], images.squares
        leaving = images.products(np.array(old))
        rest = self._squares[label] - 2 * sums[old] + squares[old]
        lengths = rest + squares + 2 * (sums - leaving)
        others = np.delete(self._scores, label, axis=1)
        top = others.max(axis=1)
        held = top + np.log(np.exp(others - top[:, None]).sum(axis=1))
        added = cross if places is None else cross.take(places, axis=1)
        excess = self._logits(
            label, added + (self._asked[label] - cross[:, old])[:, None], lengths if places is None else lengths[places]
        )
        excess -= held[:, None]
        # A query of this class loses log(1 + exp(held - x)), another log(1 + exp(x - held)) more than without it.
        own = self._own[label]
        # Not np.negative in place: numpy 2.4 gets that wrong for a strided row.
        excess[own] *= -1
        total = np.maximum(excess, 0.0).sum(axis=0)
        np.exp(np.negative(np.abs(excess, out=excess), out=excess), out=excess)
        excess += 1
        for start in range(0, len(excess), _TOGETHER):
            total += np.log(excess[start : start + _TOGETHER].prod(axis=0))
        before = held - self._scores[np.arange(len(held)), self.labels]
        before[own] = 0
        return total + before.sum()

    def put(self, label: int, slot: int, place: int) -> None:
        """Give a slot to a candidate."""
        images, old = self.images[label], int(self.picks[label][slot])
        coming, leaving = images.products(np.array([place, old]))
        self._sums[label] += coming - leaving
        self.picks[label][slot] = place
        self._squares[label] = float(self._sums[label][self.picks[label]].sum())
        self._asked[label] += self._cross[label][:, place] - self._cross[label][:, old]
        self._scores[:, label] = self._logits(label, self._asked[label], self._squares[label])

    def sweep(self, width: int | None = None) -> bool:
        """Give every slot of every class to its best candidate; return whether another sweep may change anything.

        It may not once as many slots in a row as there are have kept their image.

        Args:
            width: candidates of a class that are looked at, those of the largest tangent; by default all.
        """
        for label, picks in enumerate(self.picks):
            every = np.arange(len(self.allowed[label]))
            some = every if width is None or len(every) <= width else self.promising(label, width)
            for slot in range(len(picks)):
                old = int(picks[slot])
                places = some if len(some) == len(every) else np.union1d(some, old)
                worth = self.sign * self.losses(label, slot, places if len(places) < len(every) else None)
                free = self.allowed[label].copy()
                free[picks] = False
                new = best(worth, places, old, free)
                if new != old:
                    self.put(label, slot, new)
                self._settled = 0 if new != old else self._settled + 1
                if self._settled >= sum(self.shots):
                    return False
        return True

    def promising(self, label: int, width: int) -> NDArray[np.int64]:
        """Return the places, ascending, of the candidates whose arrival changes the loss's tangent most for the better.

        The tangent is taken in the logits, as in `swaps`; what leaves for the candidate is left out.
        """
        pull, shots = logit_slopes(self._scores, self.labels)[:, label], self.shots[label]
        gain, sums, squares = pull @ self._cross[label], self._sums[label], self.images[label].squares
        if self.distance == "euclidean":
            gain = 2 * gain / shots - pull.sum() / shots**2 * (squares + 2 * sums)
        else:
            own = self._squares[label]
            gain = gain - (pull @ self._asked[label]) / (own if own > 0 else np.inf) * sums
        worth = np.where(self.allowed[label], self.sign * gain, -np.inf)
        return np.sort(np.argsort(-worth, kind="stable")[:width])

    def _logits(self, label: int, asked: Floats, squares: Floats | float) -> Floats:
        """Return logits from products of queries with the support's sum and the sum's squared length.

        |q|^2 is left out: it is the same for all classes.
        """
        shots = self.shots[label]
        if self.distance == "euclidean":
            return 2 / shots * asked - np.asarray(squares) / shots**2
        lengths = np.sqrt(np.maximum(squares, 0.0))
        return SCALE * asked / np.where(lengths > 0, lengths, np.inf)


def best(worth: Floats, places: NDArray[np.int64], old: int, free: NDArray[np.bool_]) -> int:
    """Return the free place of the largest worth, the first of those within `TOLERANCE`; `old` if none is better.

    Args:
        worth: (m,), for each of some places; `old` must be one of them.
        places: (m,), ascending.
        old: who holds the slot.
        free: (D,) which places may be taken; `old` need not be.
    """
    held = float(worth[int(np.searchsorted(places, old))])
    open_to = np.where(free[places], worth, -np.inf)
    most = float(open_to.max())
    margin = TOLERANCE * (1 + abs(held))
    return int(places[np.argmax(open_to >= most - margin)]) if most > held + margin else old


def greedy(
    candidates: Candidates, task: Task, distance: Distance, sign: int = 1, rounds: int = 3
) -> tuple[tuple[int, ...], ...]:
    """Return the support that `rounds` rounds of greedy search reach from the task's own, as rows of the pool."""
    board = Board(candidates, task, distance, sign)
    board.place(candidates.start(task, board.allowed))
    for _ in range(rounds):
        if not board.sweep():
            break
    return candidates.rows(task, board.picks)
