"""Hard and easy tasks: the same classes, shots and queries as given ones, with supports chosen against or for them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from pellucid.core.errors import OptionError

from .candidates import Candidates, Picks
from .fastdiffsel import ALPHA, one_step, several_steps
from .greedy import Board, greedy
from .pools import Pool
from .prototypes import Distance, check_distance, pieces, query_loss
from .swaps import swap
from .tasks import Rows, Task

Method = Literal["fastdiffsel", "steps", "swap", "greedy"]

EASY_RATES = (1.0, 0.1, 0.01, 0.001)
"""Of alpha, tried in turn for easy tasks, where a long step overshoots the minimum."""

RANDOM_STARTS = 4
"""Of the method `swap`."""


def harden(
    pool: Pool,
    tasks: Sequence[Task],
    method: Method = "fastdiffsel",
    *,
    kind: Literal["hard", "easy"] = "hard",
    distance: Distance = "euclidean",
    alpha: float = ALPHA,
    rounds: int = 3,
    seed: int = 0,
    chunk: int = 128,
    advance: Callable[[int], None] | None = None,
) -> list[Task]:
    """Return the tasks with supports chosen so that the query loss is as large (or small) as the method can make it.

    Ways, shots, queries and seeds stay (thesis 4.4.1). No support image has the content of a query, nor two of one
    support the same content. The loss is that of mean prototypes, summed over queries (eq. 4.1). Results depend
    neither on `chunk` nor on the order of the tasks.

    Args:
        pool: where the supports come from.
        tasks: default tasks.
        method: `fastdiffsel` is the thesis's algorithm 1 (one step); `steps` takes several projected steps; `swap`
            climbs from several starts and finishes by exact swaps; `greedy` is the thesis's baseline.
        kind: `hard` raises the loss, `easy` lowers it. Downhill one long step overshoots, so that `fastdiffsel` and
            `steps` try several rates there, down to a thousandth of alpha, and keep the best support of each task.
        distance: of queries to prototypes: squared Euclidean, or cosine times 10.
        alpha: learning rate of `fastdiffsel` and `steps`, and of the first start of `swap`.
        rounds: of `greedy`.
        seed: of initial weights and random starts.
        chunk: tasks that are worked on together, at most; memory follows it.
        advance: is told how many tasks are done.

    Raises:
        DataError: a class has too few images for its shots beside the queries, or a task is not of this pool.
        OptionError: a method, kind, distance or number that cannot work.
    """
    _check(method, kind, distance, alpha, rounds, seed, chunk)
    candidates = Candidates(pool, tasks, distance)
    sign = 1 if kind == "hard" else -1
    found: list[Task] = []
    for part in pieces(tasks, pool.dim, chunk):
        if method == "greedy":
            supports = [greedy(candidates, task, distance, sign, rounds) for task in part]
        elif method == "swap":
            supports = _swapped(candidates, part, distance, sign, alpha, seed)
        else:
            supports = _stepped(candidates, part, method, distance, sign, alpha, seed)
        found += [
            replace(task, support=support, kind=kind, method=method)
            for task, support in zip(part, supports, strict=True)
        ]
        if advance is not None:
            advance(len(part))
    return found


def ease(pool: Pool, tasks: Sequence[Task], method: Method = "fastdiffsel", **options: Any) -> list[Task]:
    """Return easy tasks by the method, or by one round of `greedy` where the method takes gradient steps.

    Minimising with gradient steps (thesis 4.5.3) picks extreme images too: on raw pixels of MNIST-5k (5-way 5-shot, 40
    tasks) accuracy falls from 0.75 to 0.65 with one step, on animals from 0.56 to 0.41; one greedy round raises it to
    0.99 and 0.85.

    Args:
        pool: see `harden`, also for `tasks`.
        tasks: default tasks.
        method: what chooses the hard tasks.
        options: of `harden`.
    """
    if method in ("fastdiffsel", "steps"):
        method, options = "greedy", options | {"rounds": 1}
    return harden(pool, tasks, method, kind="easy", **options)


def _stepped(
    candidates: Candidates, tasks: Sequence[Task], method: str, distance: Distance, sign: int, alpha: float, seed: int
) -> list[tuple[Rows, ...]]:
    choose = one_step if method == "fastdiffsel" else several_steps
    tried = []
    for rate in (1.0,) if sign == 1 else EASY_RATES:
        picks = choose(candidates, tasks, distance, sign, rate * alpha, seed)
        tried.append([candidates.rows(task, each) for task, each in zip(tasks, picks, strict=True)])
    if len(tried) == 1:
        return tried[0]
    losses = [
        query_loss(candidates.pool, [replace(t, support=s) for t, s in zip(tasks, supports, strict=True)], distance)
        for supports in tried
    ]
    return [tried[best][t] for t, best in enumerate(np.argmin(losses, axis=0))]


def _swapped(
    candidates: Candidates, tasks: Sequence[Task], distance: Distance, sign: int, alpha: float, seed: int
) -> list[tuple[Rows, ...]]:
    stepped = one_step(candidates, tasks, distance, sign, alpha, seed)
    supports = []
    for task, one in zip(tasks, stepped, strict=True):
        board = Board(candidates, task, distance, sign)
        random = np.random.default_rng([seed, task.seed & (2**64 - 1), 1])
        places = [np.flatnonzero(allowed) for allowed in board.allowed]
        others: list[Picks] = [
            [random.choice(free, shots, replace=False) for free, shots in zip(places, task.shots, strict=True)]
            for _ in range(RANDOM_STARTS)
        ]
        supports.append(swap(candidates, task, board, [one, *others]))
    return supports


def _check(method: str, kind: str, distance: str, alpha: float, rounds: int, seed: int, chunk: int) -> None:
    if method not in get_args(Method):
        raise OptionError(f"method is {method!r}: choose one of {', '.join(get_args(Method))}")
    if kind not in ("hard", "easy"):
        raise OptionError(f"kind is {kind!r}: choose 'hard' or 'easy'")
    check_distance(distance)
    if not 0 < alpha < np.inf:
        raise OptionError(f"alpha is {alpha}: a learning rate is above 0, such as 200")
    for name, value, least in (("rounds", rounds, 1), ("seed", seed, 0), ("chunk", chunk, 1)):
        if value < least:
            raise OptionError(f"{name} is {value}: it must be {least} or more")
