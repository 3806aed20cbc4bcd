"""Groups of training points to remove: random ones, and coherent ones of a class or a cluster (thesis section 3.5).

Each group draws from a seed of its own, so that adding a size or a repeat leaves the others as they were.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pellucid.core.errors import DataError, OptionError

Kind = Literal["random", "class", "cluster"]

FRACTIONS = (0.016, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""The thesis's range of group sizes (section 3.5.2), as shares of the training data."""


@dataclass(frozen=True)
class Group:
    """Some training rows.

    Attributes:
        indices: the rows, ascending.
        kind: how they were drawn.
        fraction: share of the training data.
    """

    indices: tuple[int, ...]
    kind: Kind
    fraction: float


def random_groups(n: int, sizes: Sequence[int | float] = FRACTIONS, *, repeats: int = 1, seed: int = 0) -> list[Group]:
    """Return groups drawn at random.

    Args:
        n: how many training points there are.
        sizes: counts (whole numbers) or fractions of n (between 0 and 1).
        repeats: groups of each size.
        seed: the same seed gives the same groups.

    Raises:
        OptionError: for a size that leaves no group or no data.
    """

    def draw(random: np.random.Generator, count: int) -> NDArray[np.int64]:
        return random.choice(n, size=count, replace=False)

    return _groups("random", n, sizes, repeats, seed, draw)


def class_groups(
    labels: ArrayLike,
    sizes: Sequence[int | float] = FRACTIONS,
    *,
    share: float = 0.9,
    repeats: int = 1,
    seed: int = 0,
) -> list[Group]:
    """Return coherent groups: points of one class, drawn at random.

    A group larger than a class goes on with a second class drawn at random, and so on. Of each class it takes `share`
    at most (unless it is larger than that share of all the data): without any example of a class a model is retrained
    to another task, and no expansion around the old one can foresee that.

    Args:
        labels: class of each training point, shape (n,).
        sizes: counts (whole numbers) or fractions of n (between 0 and 1).
        share: of each class, above 0 and up to 1.
        repeats: groups of each size.
        seed: the same seed gives the same groups.

    Raises:
        OptionError: for a size that leaves no group or no data, or a share that cannot be.
        DataError: if labels are not one a point.
    """
    classes = np.asarray(labels)
    if classes.ndim != 1:
        raise DataError(f"labels have shape {classes.shape}: give one class for each training point")
    if not 0 < share <= 1:
        raise OptionError(f"share is {share}: it must lie above 0 and up to 1")

    def draw(random: np.random.Generator, count: int) -> NDArray[np.int64]:
        order = random.permutation(np.unique(classes))
        members = [random.permutation(np.flatnonzero(classes == label)) for label in order]
        cuts = [max(1, int(share * len(rows))) for rows in members]
        taken = [rows[:cut] for rows, cut in zip(members, cuts, strict=True)]
        spared = [rows[cut:] for rows, cut in zip(members, cuts, strict=True)]
        return np.concatenate(taken + spared)[:count]

    return _groups("class", len(classes), sizes, repeats, seed, draw)


def cluster_groups(
    features: ArrayLike,
    sizes: Sequence[int | float] = FRACTIONS,
    *,
    clusters: int = 10,
    repeats: int = 1,
    seed: int = 0,
) -> list[Group]:
    """Return coherent groups: the points nearest to the centre of a k-means cluster drawn at random.

    Args:
        features: shape (n, ...), such as pixels or a model's last hidden layer; flattened to (n, d).
        sizes: counts (whole numbers) or fractions of n (between 0 and 1).
        clusters: how many k-means looks for (scikit-learn's, started 4 times).
        repeats: groups of each size.
        seed: of the clustering and of the draws.

    Raises:
        OptionError: for a size that leaves no group or no data, or more clusters than points.
        DataError: if features are not finite numbers.
    """
    points = np.asarray(features, dtype=np.float64)
    if points.ndim < 2 or not np.isfinite(points).all():
        raise DataError(f"features of shape {points.shape} must be (n, ...) finite numbers")
    points = points.reshape(len(points), -1)
    if not 1 <= clusters <= len(points):
        raise OptionError(f"clusters is {clusters}: choose from 1 to the number of points, {len(points)}")
    from sklearn.cluster import KMeans

    centres = KMeans(clusters, n_init=4, random_state=seed).fit(points).cluster_centers_

    def draw(random: np.random.Generator, count: int) -> NDArray[np.int64]:
        distance = np.square(points - centres[random.integers(clusters)]).sum(axis=1)
        return np.argsort(distance, kind="stable")[:count]

    return _groups("cluster", len(points), sizes, repeats, seed, draw)


def _groups(
    kind: Kind,
    n: int,
    sizes: Sequence[int | float],
    repeats: int,
    seed: int,
    draw: Callable[[np.random.Generator, int], NDArray[np.int64]],
) -> list[Group]:
    if repeats < 1:
        raise OptionError(f"repeats is {repeats}: it must be 1 or more")
    groups = []
    for size in sizes:
        count = _count(size, n)
        for repeat in range(repeats):
            key = hashlib.sha256(f"{seed} {kind} {count} {repeat}".encode()).digest()
            rows = draw(np.random.default_rng(int.from_bytes(key[:16])), count)
            groups.append(Group(tuple(sorted(int(row) for row in rows)), kind, count / n))
    return groups


def _count(size: int | float, n: int) -> int:
    """Return how many points a count or a fraction means, or raise where no such group can be removed."""
    if isinstance(size, float) and not 0 < size < 1:
        raise OptionError(f"size {size:g} is not a fraction between 0 and 1: write a count as a whole number")
    count = max(1, round(size * n)) if isinstance(size, float) else int(size)
    if not 1 <= count < n:
        raise OptionError(f"a group of {count} cannot be removed from {n} training points: choose 1 to {n - 1}")
    return count
