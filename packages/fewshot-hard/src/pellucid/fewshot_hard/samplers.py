"""Default tasks: classes, support and query drawn at random, the same to the bit for the same seed."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import DataError, OptionError

from .pools import CHECKED, Pool
from .tasks import Task

Sampler = Literal["fixed", "meta-dataset"]
Rows = NDArray[np.int64]

FEWEST_WAYS, MOST_WAYS = 5, 50
MOST_QUERY = 10
MOST_FROM_CLASS = 100
"""Images that one class can add to the support set's size, before proportions are drawn."""
MOST_SUPPORT = 500


def sample_tasks(
    pool: Pool,
    count: int,
    sampler: Sampler = "fixed",
    way: int = 5,
    shot: int = 5,
    query: int = 15,
    seed: int = 0,
    *,
    classes: Sequence[str] | None = None,
    within: str | None = None,
    query_where: Mapping[str, bool] | None = None,
) -> list[Task]:
    r"""Return `count` tasks of kind "default".

    `fixed` draws `way` classes, and `shot` support and `query` query images of each.

    `meta-dataset` draws variable ways and shots (Triantafillou et al., Meta-Dataset, ICLR 2020, section 3.2 and the
    details in its appendix) and takes no heed of `way`, `shot` and `query`. With |c| images in class c:

    - way $N \sim U\{5, \dots, \min(50, C)\}$, and N classes without replacement;
    - query images of each class $q = \min(10, \lfloor \min_c |c| / 2 \rfloor)$;
    - size of the support set, with $\beta \sim U(0, 1]$:
      $|S| = \min(500, \sum_c \lceil \beta \min(100, |c| - q) \rceil)$;
    - shots $k_c = \min(\lfloor R_c (|S| - N) \rfloor + 1, |c| - q)$, with $R_c \propto |c| e^{\alpha_c}$ and
      $\alpha_c \sim U[\log 1/2, \log 2)$.

    An image that the pool holds twice (by `Pool.content_of`) counts once, as its first row, so that no image is in
    support and query both, under no name and in no class. Task t follows from the seed, t and the pool's labels and
    contents alone: more tasks never change the first ones, and another backbone's pool of the same images gives the
    same tasks.

    Args:
        pool: images to draw from; only labels, contents and annotations are looked at.
        count: how many tasks.
        sampler: "fixed" or "meta-dataset".
        way: classes of a task.
        shot: support images of a class.
        query: query images of a class.
        seed: 0 or more; kept in every task.
        classes: names of the classes to draw from, such as a data set's test split; all where None.
        within: draw a task's classes within one group: of equal names up to this text, such as "/" for Omniglot's
            "Greek/character01" (Meta-Dataset draws an alphabet first). Groups of too few classes are left out.
        query_where: annotations that query images must have (True) or lack (False); the support may have any.

    Raises:
        OptionError: a number, the sampler, or a name of a class or an annotation cannot work.
        DataError: a class has fewer images than its shots and queries, or there are too few classes.
    """
    if sampler not in get_args(Sampler):
        raise OptionError(f"sampler is {sampler!r}: give one of {', '.join(get_args(Sampler))}")
    for name, value, least in (("count", count, 1), ("seed", seed, 0), ("way", way, 2), ("shot", shot, 1),
                               ("query", query, 1)):  # fmt: skip
        if value < least:
            raise OptionError(f"{name} is {value}: it must be {least} or more")
    chosen = _chosen(pool, classes)
    rows = _distinct(pool, chosen)
    asked = _asked(pool, rows, query_where)
    needed = (shot, query) if sampler == "fixed" else (1, 1)
    for label in chosen:
        _check(pool, label, rows[label], asked[label], *needed)
    least = way if sampler == "fixed" else FEWEST_WAYS
    groups = _groups(pool, chosen, within, least)
    tasks = []
    for index in range(count):
        random = np.random.default_rng((seed, index))
        group = groups[int(random.integers(len(groups)))] if len(groups) > 1 else groups[0]
        if sampler == "fixed":
            labels = random.choice(group, way, replace=False)
            shots, queries = np.full(way, shot), query
        else:
            labels = _ways(group, random)
            sizes = np.array([len(rows[label]) for label in labels])
            queries = _queries(sizes, np.array([len(asked[label]) for label in labels]))
            shots = _shots(sizes, queries, random)
        tasks.append(_draw(labels, shots, queries, rows, asked, random, seed, sampler))
    return tasks


def _chosen(pool: Pool, classes: Sequence[str] | None) -> Rows:
    """Return the labels to draw from, ascending: the classes that have images, or those named."""
    if classes is None:
        return np.flatnonzero(np.bincount(pool.labels, minlength=len(pool.classes)))
    if isinstance(classes, str):
        raise OptionError(f"classes is the text {classes!r}: give a list of names")
    known = {name: label for label, name in enumerate(pool.classes)}
    for name in classes:
        if name not in known:
            raise OptionError(f"the pool has no class {name!r}: it has {', '.join(pool.classes[:5])}, ...")
    return np.array(sorted({known[name] for name in classes}), dtype=np.int64)


def _distinct(pool: Pool, chosen: Rows) -> dict[int, Rows]:
    """Return the rows of each class, ascending, without those whose content an earlier row (of any class) has."""
    rows = np.sort(np.concatenate([pool.members[label] for label in chosen]))
    contents = np.concatenate(
        [pool.content_of(rows[start : start + CHECKED]) for start in range(0, len(rows), CHECKED)]
    )
    first = np.unique(contents, return_index=True)[1]
    kept = rows[np.sort(first)]
    labels = pool.labels[kept]
    order = np.argsort(labels, kind="stable")
    parts = np.split(kept[order], np.searchsorted(labels[order], chosen[1:]))
    return {int(label): part for label, part in zip(chosen, parts, strict=True)}


def _asked(pool: Pool, rows: dict[int, Rows], where: Mapping[str, bool] | None) -> dict[int, Rows]:
    """Return the rows of each class that may be query images."""
    if not where:
        return rows
    allowed = np.ones(len(pool), dtype=bool)
    for name, value in where.items():
        if name not in pool.annotations:
            known = ", ".join(pool.annotations) or "none: give a pool with annotations"
            raise OptionError(f"the pool has no annotation {name!r}: it has {known}")
        allowed &= pool.annotations[name] == value
    return {label: each[allowed[each]] for label, each in rows.items()}


def _check(pool: Pool, label: int, rows: Rows, asked: Rows, shot: int, query: int) -> None:
    name, mend = pool.classes[label], "ask for fewer, or leave the class out (classes=...)"
    if len(rows) < shot + query:
        raise DataError(
            f"class {name!r} has {len(rows)} distinct images, fewer than {shot} for support and {query} for query: "
            f"{mend}"
        )
    if len(asked) < query:
        raise DataError(
            f"class {name!r} has {len(asked)} images with the query's annotations for {query} asked: {mend}"
        )


def _groups(pool: Pool, chosen: Rows, within: str | None, way: int) -> list[Rows]:
    if within is None:
        groups = [chosen]
    else:
        names: dict[str, list[int]] = {}
        for label in chosen:
            names.setdefault(pool.classes[label].split(within)[0], []).append(int(label))
        groups = [np.array(labels) for labels in names.values()]
    large = [labels for labels in groups if len(labels) >= way]
    if not large:
        most = max(len(labels) for labels in groups)
        place = "" if within is None else f" of one group (names up to {within!r})"
        raise DataError(f"there are {most} classes{place} for tasks of {way}: give more classes, or a lower way")
    return large


def _ways(group: Rows, random: np.random.Generator) -> Rows:
    way = int(random.integers(FEWEST_WAYS, min(MOST_WAYS, len(group)) + 1))
    return random.choice(group, way, replace=False)


def _queries(sizes: Rows, asked: Rows) -> int:
    return int(min(MOST_QUERY, sizes.min() // 2, asked.min()))


def _shots(sizes: Rows, queries: int, random: np.random.Generator) -> Rows:
    left = sizes - queries
    # 1 - U[0, 1) is uniform in (0, 1].
    beta = 1.0 - random.random()
    total = min(MOST_SUPPORT, int(np.ceil(beta * np.minimum(MOST_FROM_CLASS, left)).sum()))
    share = sizes * np.exp(random.uniform(np.log(0.5), np.log(2.0), len(sizes)))
    return np.minimum(np.floor(share / share.sum() * (total - len(sizes))).astype(np.int64) + 1, left)


def _draw(
    labels: Rows,
    shots: Rows,
    queries: int,
    rows: dict[int, Rows],
    asked: dict[int, Rows],
    random: np.random.Generator,
    seed: int,
    sampler: Sampler,
) -> Task:
    support, query = [], []
    for label, shot in zip(labels.tolist(), shots.tolist(), strict=True):
        taken = random.choice(asked[label], queries, replace=False)
        rest = np.setdiff1d(rows[label], taken, assume_unique=True)
        query.append(tuple(taken.tolist()))
        support.append(tuple(random.choice(rest, shot, replace=False).tolist()))
    return Task(tuple(labels.tolist()), tuple(support), tuple(query), "default", seed, sampler)
