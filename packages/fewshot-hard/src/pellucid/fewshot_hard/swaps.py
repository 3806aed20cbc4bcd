"""Our stronger selector: many cheap climbs from several starts, then the best of them finished by exact swaps.

The query loss is convex in the logits, so that its tangent there lies below it: images that raise the tangent raise
the loss by at least as much. The tangent is a weighted sum of logits, class by class, and what an exchange of two
images does to it follows exactly from products of embeddings, with no exponential for a candidate. All classes of all
starts exchange their best pair at once. What that reaches is finished by `greedy.Board.sweep` until no exchange helps.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .candidates import Candidates, Picks
from .greedy import TOLERANCE, Board
from .prototypes import SCALE, Floats, cross_entropies, logit_slopes
from .tasks import Task

FINISHED = 1
"""Climbed starts that are finished by exact swaps, besides the task's own support."""

WIDTH = 256
"""Candidates that an exact swap looks at: in larger classes those of the largest tangent."""

LIMIT = 100
"""Exchanges of a climb and sweeps of a finish, at most; both end long before, but for very many shots."""

_LEAVING = 8
"""Images of a class that are considered for leaving, against every candidate: those of the least worth."""


def swap(candidates: Candidates, task: Task, board: Board, starts: Sequence[Picks]) -> tuple[tuple[int, ...], ...]:
    """Return the support of the largest loss (the smallest, where the board's sign is -1) reached from any start.

    The task's own support goes through exact swaps as well: where no class has more than `WIDTH` images, that is greedy
    search until nothing changes. Another support is preferred only where it is harder (or easier) by its loss and not
    the opposite by the number of errors.

    Args:
        candidates: of this task.
        task: whose support is replaced.
        board: of this task.
        starts: further supports to climb from.
    """
    climbed, worth = climb(board, starts)
    order = np.argsort(-worth, kind="stable")[:FINISHED]
    found: Picks = candidates.start(task, board.allowed)
    most = least = -np.inf
    reached: set[tuple[tuple[int, ...], ...]] = set()
    for picks in [found, *([each[b] for each in climbed] for b in order)]:
        key = tuple(tuple(sorted(each.tolist())) for each in picks)
        if key in reached:
            continue
        reached.add(key)
        board.place(picks)
        for _ in range(LIMIT):
            if not board.sweep(WIDTH):
                break
        gained, wrong = board.sign * board.loss, board.sign * board.errors
        if gained > most + TOLERANCE * (1 + abs(gained)) and wrong >= least:
            found, most, least = board.picks, gained, wrong
    return candidates.rows(task, found)


def climb(board: Board, starts: Sequence[Picks]) -> tuple[Picks, Floats]:
    """Exchange images along the tangent, in all classes of B starts at once, while that improves the loss.

    Of a class with many shots a quarter is exchanged at once, and fewer where that no longer helps.

    Returns:
        (B, k_j) places for each class, and (B,) the board's sign times the losses.
    """
    picks = [np.stack([start[j] for start in starts]) for j in range(len(board.shots))]
    sums, scores = _stand(board, picks)
    worth = board.sign * cross_entropies(scores, board.labels).sum(axis=1)
    going, share = np.arange(len(starts)), 0.25
    for _ in range(LIMIT):
        if not len(going):
            break
        slopes = logit_slopes(scores[going], board.labels)
        tried = [
            _exchange(board, j, each[going], sums[j][going], slopes[:, :, j], max(1, int(share * each.shape[1])))
            for j, each in enumerate(picks)
        ]
        new_sums, new_scores = _stand(board, tried)
        gained = board.sign * cross_entropies(new_scores, board.labels).sum(axis=1)
        better = gained > worth[going] + TOLERANCE * (1 + np.abs(gained))
        where = going[better]
        for each, sum_, new, new_sum in zip(picks, sums, tried, new_sums, strict=True):
            each[where], sum_[where] = new[better], new_sum[better]
        scores[where], worth[where] = new_scores[better], gained[better]
        if share * max(board.shots) < 2:
            going = where
        elif not better.all():
            share /= 2
    return picks, worth


def _stand(board: Board, picks: Picks) -> tuple[list[Floats], Floats]:
    """Return each class's sum of support embeddings (B, d), and the logits (B, Q, N) less what all classes share."""
    sums, columns = [], []
    for images, places in zip(board.images, picks, strict=True):
        total = images.features[places].sum(axis=1)
        squares = np.einsum("bd,bd->b", total, total)[:, None]
        shots = places.shape[1]
        asked = total @ board.queries.T
        if board.distance == "euclidean":
            columns.append(2 / shots * asked - squares / shots**2)
        else:
            columns.append(SCALE * asked / np.where(squares > 0, np.sqrt(squares), np.inf))
        sums.append(total)
    return sums, np.stack(columns, axis=2)


def _exchange(
    board: Board, label: int, picks: NDArray[np.int64], sums: Floats, slopes: Floats, count: int
) -> NDArray[np.int64]:
    """Return (B, k) the support of a class after `count` exchanges that raise the tangent most, or after none.

    Args:
        board: whose class it is.
        label: the task's own label of the class.
        picks: (B, k).
        sums: (B, d) of their embeddings.
        slopes: (B, Q) of the loss by the class's logits.
        count: of images that leave at once; what they are to each other is counted only for one.
    """
    images, (starts, shots) = board.images[label], picks.shape
    at = np.arange(starts)[:, None]
    along = (board.sign * (slopes @ board.queries)) @ images.features.T
    if shots == 1:
        return _replaced(board, label, along, slopes)
    beside = sums @ images.features.T
    squares = np.take_along_axis(beside, picks, 1).sum(axis=1, keepdims=True)
    if board.distance == "euclidean":
        weight = board.sign * slopes.sum(axis=1, keepdims=True) / shots**2
        arriving = 2 / shots * along - weight * (images.squares + 2 * beside)
        leaving = -2 / shots * along[at, picks] - weight * (images.squares[picks] - 2 * beside[at, picks])
    else:
        inner = np.take_along_axis(along, picks, 1).sum(axis=1, keepdims=True)
        arriving = along - inner / np.where(squares > 0, squares, np.inf) * beside
        leaving = -arriving[at, picks]
    shut = np.repeat(~board.allowed[label][None], starts, axis=0)
    shut[at, picks] = True
    fresh = picks.copy()
    if count > 1:
        arriving[shut] = -np.inf
        count = min(count, int((~shut).sum(axis=1).min()))
        out = np.argsort(-leaving, axis=1, kind="stable")[:, :count]
        fresh[at, out] = np.argsort(-arriving, axis=1, kind="stable")[:, :count]
        return fresh
    slots = np.argsort(-leaving, axis=1, kind="stable")[:, :_LEAVING]
    old = picks[at, slots]
    between = images.products(old)
    if board.distance == "euclidean":
        gain = arriving[:, None] + leaving[at, slots][..., None] + 2 * weight[..., None] * between
    else:
        rest = squares + images.squares[old] - 2 * beside[at, old]
        lengths = rest[..., None] + (images.squares + 2 * beside)[:, None] - 2 * between
        value = inner[..., None] + along[:, None] - along[at, old][..., None]
        gain = value / np.sqrt(np.where(lengths > 0, lengths, np.inf))
        gain -= (inner / np.sqrt(np.where(squares > 0, squares, np.inf)))[..., None]
    gain = np.where(shut[:, None], -np.inf, gain).reshape(starts, -1)
    first = _first_largest(gain)
    better = np.flatnonzero(gain[at[:, 0], first] > 0)
    slot, place = np.divmod(first[better], gain.shape[1] // slots.shape[1])
    fresh[better, slots[better, slot]] = place
    return fresh


def _replaced(board: Board, label: int, along: Floats, slopes: Floats) -> NDArray[np.int64]:
    """Return (B, 1) the image of the largest tangent, for a class of one shot, whose prototype is that image."""
    squares = board.images[label].squares
    if board.distance == "euclidean":
        value = 2 * along - board.sign * slopes.sum(axis=1, keepdims=True) * squares
    else:
        value = along / np.sqrt(np.where(squares > 0, squares, np.inf))
    value[:, ~board.allowed[label]] = -np.inf
    return _first_largest(value)[:, None]


def _first_largest(values: Floats) -> NDArray[np.int64]:
    """Return where each row is largest, the first of values that are equal but for rounding.

    So what is chosen does not hang on how products are summed.
    """
    most = values.max(axis=1, keepdims=True)
    return (values >= most - TOLERANCE * (1 + np.abs(most))).argmax(axis=1)
