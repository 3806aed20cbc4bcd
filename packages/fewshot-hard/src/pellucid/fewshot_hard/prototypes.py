"""Prototypical classification (Snell et al., 2017; thesis 4.3.1): loss, its slopes, and accuracy, for many tasks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import OptionError

from .pools import Pool
from .tasks import Task, flat

Distance = Literal["euclidean", "cosine"]
Floats = NDArray[np.float64]

SCALE = 10.0
"""Cosines are multiplied by it before the softmax (Hu et al., 2022, the thesis's base model, starts from this)."""

_HELD = 1 << 22
"""Padded numbers that a batch of tasks may hold: 32 MiB."""


@dataclass(frozen=True)
class Batch:
    """The query sets of T tasks of any way and size, padded to the largest.

    Attributes:
        queries: (T, Q, d) float64 embeddings.
        labels: (T, Q), the tasks' own labels.
        asked: (T, Q) bool, False where there is only padding.
        present: (T, N) bool, False for classes that a task does not have.
    """

    queries: Floats
    labels: NDArray[np.int64]
    asked: NDArray[np.bool_]
    present: NDArray[np.bool_]


def query_loss(pool: Pool, tasks: Sequence[Task], distance: Distance = "euclidean") -> Floats:
    """Return (T,) the loss of each task's query set, SUMMED over its queries (eq. 4.1), with its support's prototypes.

    A mean instead of the sum would divide the gradients by the number of queries, and so rescale alpha.
    """
    parts = [losses(batch, prototypes, distance) for batch, prototypes in _adapted(pool, tasks, distance)]
    return np.concatenate(parts) if parts else np.zeros(0)


def accuracy(pool: Pool, tasks: Sequence[Task], distance: Distance = "euclidean") -> Floats:
    """Return (T,) the share of each task's queries whose nearest mean prototype is their own class's."""
    guessed = predictions(pool, tasks, distance)
    return np.array([(g == flat(task.query)[1]).mean() for g, task in zip(guessed, tasks, strict=True)])


def predictions(pool: Pool, tasks: Sequence[Task], distance: Distance = "euclidean") -> list[NDArray[np.int64]]:
    """Return, for each task, the label (0 to N-1) of the prototype nearest to each query of `flat(task.query)`."""
    found: list[NDArray[np.int64]] = []
    for batch, prototypes in _adapted(pool, tasks, distance):
        chosen = _visible(logits(batch.queries, prototypes, distance), batch).argmax(axis=2)
        found += [each[asked] for each, asked in zip(chosen, batch.asked, strict=True)]
    return found


def logits(queries: Floats, prototypes: Floats, distance: Distance) -> Floats:
    """Return (..., Q, N): minus squared distances, or `SCALE` times cosines, from (..., Q, d) to (..., N, d)."""
    if distance == "cosine":
        return SCALE * unit(queries) @ unit(prototypes).swapaxes(-1, -2)
    # Counted from among the prototypes: far from the origin, squares would swallow the differences.
    middle = prototypes.mean(axis=-2, keepdims=True)
    q, c = queries - middle, prototypes - middle
    squares = (q * q).sum(axis=-1)[..., :, None] + (c * c).sum(axis=-1)[..., None, :]
    return np.minimum(2 * (q @ c.swapaxes(-1, -2)) - squares, 0.0)


def unit(vectors: Floats) -> Floats:
    """Return the vectors over their lengths; zero vectors stay zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1.0)


def losses(batch: Batch, prototypes: Floats, distance: Distance) -> Floats:
    """Return (T,) summed cross-entropies of the queries, given prototypes (T, N, d)."""
    return _losses(_visible(logits(batch.queries, prototypes, distance), batch), batch)


def slopes(batch: Batch, prototypes: Floats, distance: Distance) -> tuple[Floats, Floats]:
    """Return the summed losses (T,) and their gradient by the prototypes, (T, N, d)."""
    scores = _visible(logits(batch.queries, prototypes, distance), batch)
    by_logits = logit_slopes(scores, batch.labels) * batch.asked[..., None]
    pulled = by_logits.swapaxes(1, 2)
    if distance == "euclidean":
        gradient = 2 * (pulled @ batch.queries - by_logits.sum(axis=1)[..., None] * prototypes)
    else:
        lengths = np.linalg.norm(prototypes, axis=-1, keepdims=True)
        direction, toward = unit(prototypes), SCALE * (pulled @ unit(batch.queries))
        across = toward - (direction * toward).sum(axis=-1, keepdims=True) * direction
        gradient = across / np.where(lengths > 0, lengths, np.inf)
    return _losses(scores, batch), gradient


def logit_slopes(scores: Floats, labels: NDArray[np.int64]) -> Floats:
    """Return the cross-entropy's gradient by logits (..., Q, N): probabilities less 1 at the label."""
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    own = np.broadcast_to(labels[..., None], (*scores.shape[:-1], 1))
    np.put_along_axis(shares, own, np.take_along_axis(shares, own, -1) - 1, -1)
    return shares


def cross_entropies(scores: Floats, labels: NDArray[np.int64]) -> Floats:
    """Return (..., Q) from logits (..., Q, N)."""
    top = scores.max(axis=-1)
    total = top + np.log(np.exp(scores - top[..., None]).sum(axis=-1))
    own = np.broadcast_to(labels[..., None], (*scores.shape[:-1], 1))
    return total - np.take_along_axis(scores, own, -1)[..., 0]


def weight_slopes(features: Floats, weights: Floats, prototypes: Floats, gradient: Floats) -> Floats:
    """Return the loss's gradient by the selection weights of one class, for B tasks.

    With c = sum_i w_i f_i / sum_i w_i, dL/dw_i = (f_i - c) . dL/dc / sum_i w_i.

    Args:
        features: (D, d), of the class's images.
        weights: (B, D).
        prototypes: (B, d), the weighted prototypes of the class.
        gradient: (B, d), the loss's, by the prototypes.

    Returns:
        (B, D).
    """
    along = gradient @ features.T - (gradient * prototypes).sum(axis=1, keepdims=True)
    return along / weights.sum(axis=1, keepdims=True)


def gather(pool: Pool, tasks: Sequence[Task], origin: Floats) -> Batch:
    """Return the tasks' query sets, less `origin` (d,)."""
    way = max(task.way for task in tasks)
    rows, asked = _padded([flat(task.query)[0] for task in tasks])
    labels, _ = _padded([flat(task.query)[1] for task in tasks])
    present = np.arange(way) < np.array([[task.way] for task in tasks])
    return Batch(pool.embeddings[rows] - origin, labels, asked, present)


def origin_of(pool: Pool, distance: Distance) -> Floats:
    """Return (d,) from where embeddings are counted: their mean over some rows, or zeros where angles matter."""
    if distance == "cosine":
        return np.zeros(pool.dim)
    step = max(1, len(pool) // 1024)
    return np.asarray(pool.embeddings[::step][:1024], dtype=np.float64).mean(axis=0)


def pieces(tasks: Sequence[Task], dim: int, chunk: int) -> Iterator[Sequence[Task]]:
    """Cut tasks into runs of at most `chunk`, shorter where their padded query sets would take much memory."""
    start = width = 0
    for end, task in enumerate(tasks):
        width = max(width, task.way + sum(len(rows) for rows in task.query))
        if end > start and (end - start == chunk or (end - start + 1) * width * dim > _HELD):
            yield tasks[start:end]
            start, width = end, task.way + sum(len(rows) for rows in task.query)
    if len(tasks):
        yield tasks[start:]


def check_distance(distance: str) -> None:
    """Raise an OptionError for a distance that is not known."""
    if distance not in ("euclidean", "cosine"):
        raise OptionError(f"distance is {distance!r}: choose 'euclidean' or 'cosine'")


def _adapted(pool: Pool, tasks: Sequence[Task], distance: Distance) -> Iterator[tuple[Batch, Floats]]:
    """Yield batches of tasks with their classes' mean prototypes, (T, N, d)."""
    check_distance(distance)
    origin = origin_of(pool, distance)
    for part in pieces(tasks, pool.dim, 128):
        batch = gather(pool, part, origin)
        prototypes = np.zeros((*batch.present.shape, pool.dim))
        for each, task in zip(prototypes, part, strict=True):
            rows = [row for support in task.support for row in support]
            starts = np.cumsum([0, *task.shots[:-1]])
            each[: task.way] = np.add.reduceat(pool.embeddings[rows] - origin, starts, axis=0)
            each[: task.way] /= np.array(task.shots)[:, None]
        yield batch, prototypes


def _losses(scores: Floats, batch: Batch) -> Floats:
    return np.where(batch.asked, cross_entropies(scores, batch.labels), 0.0).sum(axis=1)


def _visible(scores: Floats, batch: Batch) -> Floats:
    """Return the logits with those of absent classes at minus infinity."""
    return np.where(batch.present[:, None, :], scores, -np.inf)


def _padded(lists: Sequence[Sequence[int]]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return (rows, there), both (T, longest); padding repeats a list's first entry."""
    lengths = np.array([[len(each)] for each in lists])
    there = np.arange(lengths.max()) < lengths
    rows = np.repeat(np.array([[each[0]] for each in lists]), lengths.max(), axis=1)
    rows[there] = np.concatenate([np.asarray(each) for each in lists])
    return rows, there
