"""Hard few-shot tasks: how hard each selector makes them, and how long it takes, on the same tasks in one run.

Loss and accuracy are those of mean prototypes in pixels. The obvious way of greedy search, one adaptation and one
query loss for each candidate, is timed on fewer tasks; its supports are those of the fast one, which is checked.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from pellucid.core.assets import resolve_asset
from pellucid.core.errors import DataError, OptionError, PellucidError
from pellucid.core.progress import progress
from pellucid.core.report import Figure, Table
from pellucid.core.statistics import Estimate, bootstrap_mean
from pellucid.fewshot_hard.candidates import Candidates
from pellucid.fewshot_hard.figures import accuracy_against_time
from pellucid.fewshot_hard.pools import Pool
from pellucid.fewshot_hard.prototypes import accuracy, query_loss
from pellucid.fewshot_hard.reference import greedy_slow
from pellucid.fewshot_hard.samplers import sample_tasks
from pellucid.fewshot_hard.selection import Method, harden
from pellucid.fewshot_hard.tasks import Task

WAY, QUERIES = 5, 15

METHODS: tuple[tuple[str, Method, int], ...] = (
    ("fastdiffsel", "fastdiffsel", 3),
    ("steps", "steps", 3),
    ("swap", "swap", 3),
    ("greedy, 1 round", "greedy", 1),
    ("greedy, 3 rounds", "greedy", 3),
)


@dataclass(frozen=True)
class Row:
    """What one selector did.

    Attributes:
        pool: which images.
        shots: a class.
        method: the selector; `random` for the tasks as sampled.
        tasks: how many were chosen and timed.
        accuracy: mean over tasks.
        loss: mean over tasks of the summed query loss.
        milliseconds: a task, on the wall; None for `random`.
        processor: the same in processor time, which a busy machine disturbs less.
        times: of the processor time of three greedy rounds the obvious way, how many fit into one.
        times_fast: the same against three rounds of our fast greedy search.
    """

    pool: str
    shots: int
    method: str
    tasks: int
    accuracy: Estimate
    loss: Estimate
    milliseconds: float | None = None
    processor: float | None = None
    times: float | None = None
    times_fast: float | None = None


def measure(
    tasks: int = 200,
    slow: int = 10,
    many: int = 1000,
    seed: int = 0,
    pools: Sequence[tuple[str, Pool]] | None = None,
    large: tuple[str, Pool] | None = None,
) -> dict[str, Any]:
    """Measure all of it in one run.

    Args:
        tasks: of each pool and number of shots.
        slow: of those that greedy search chooses the obvious way as well.
        many: tasks of the large pool.
        seed: of sampling and selection.
        pools: names and pools; by default digits, and MNIST-5k where it is installed.
        large: of about 10,000 images; by default the zoo's animals, or generated ones.

    Returns:
        `rows` (a list of `Row`), `same` (whether both ways of greedy search chose the same images), `large`.

    Raises:
        OptionError: fewer than 2 tasks, or more to be done slowly than there are.
    """
    if tasks < 2 or not 1 <= slow <= tasks:
        raise OptionError(f"tasks is {tasks} and slow {slow}: choose 2 tasks or more, and from 1 to all of them slowly")
    rows: list[Row] = []
    same = True
    for name, pool in default_pools() if pools is None else pools:
        for shots in (1, 5):
            found, equal = _compared(name, pool, shots, tasks, slow, seed)
            rows, same = rows + found, same and equal
    return {"rows": rows, "same": same, "large": _many(*(large or large_pool(seed)), many, seed)}


def default_pools() -> list[tuple[str, Pool]]:
    """Return the pixels of digits, and those of MNIST-5k where it is installed, from 0 to 1."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    pools = [("digits", _pool(pixels / 16, labels))]
    with suppress(PellucidError):  # not installed: the run goes on without it
        pools.append(("mnist5k", _stored("zoo:mnist5k")))
    return pools


def large_pool(seed: int) -> tuple[str, Pool]:
    """Return a pool of 10,000 images: the zoo's animals in pixels, or generated ones of the same size."""
    try:
        return "animals", _stored("zoo:animals")
    except PellucidError:
        random = np.random.default_rng(seed)
        labels = np.arange(10_000) % 10
        return "generated", _pool(random.normal(size=(10_000, 784)) + random.normal(size=(10, 784))[labels] / 8, labels)


def summary(found: dict[str, Any]) -> str:
    """Return what `measure` found in a few sentences."""
    large = found["large"]
    said = []
    for row in found["rows"]:
        if row.method in ("fastdiffsel", "swap"):
            said.append(
                f"{row.method} on {row.pool}, {row.shots} shot: accuracy {row.accuracy}, {row.times:.3g} times as fast "
                "as three greedy rounds the obvious way"
            )
    return (
        "; ".join(said) + f". FastDiffSel makes {large['tasks']} tasks of {large['images']} {large['pool']} images in "
        f"{large['fastdiffsel_ms_a_task'] * large['tasks'] / 1000:.3g} s; swap takes {large['swap_ms_a_task']:.3g} ms "
        "for one."
    )


def tables(found: dict[str, Any]) -> list[Table]:
    """Return the tables of what `measure` found: the selectors, and the large pool."""
    columns = ["pool", "shots", "method", "tasks", "accuracy", "low", "high", "query loss", "ms a task"]
    rows = [
        [
            row.pool,
            row.shots,
            row.method,
            row.tasks,
            row.accuracy.value,
            row.accuracy.low,
            row.accuracy.high,
            row.loss.value,
            row.milliseconds,
            row.processor,
            row.times,
            row.times_fast,
        ]
        for row in found["rows"]
    ]
    return [
        Table(
            "selectors",
            [*columns, "processor ms", "times obvious greedy", "times fast greedy"],
            rows,
            f"{WAY}-way tasks with {QUERIES} queries a class, classified by mean prototypes in pixels, with an "
            "interval over tasks. The last columns are the processor time of three greedy rounds over a method's own: "
            "done the obvious way, and our fast way. Rows done the obvious way are of fewer tasks.",
        ),
        Table(
            "large",
            ["quantity", "value"],
            [[key, value] for key, value in found["large"].items()],
            f"{WAY}-way 5-shot tasks with {QUERIES} queries a class.",
        ),
    ]


def figures(found: dict[str, Any]) -> list[Figure]:
    """Draw accuracy against time for each pool and number of shots (thesis fig. 4.2); rows not timed are left out."""
    groups: dict[tuple[str, int], dict[str, tuple[Estimate, float]]] = {}
    for row in found["rows"]:
        if row.milliseconds is not None:
            groups.setdefault((row.pool, row.shots), {})[row.method] = (row.accuracy, row.milliseconds / 1000)
    return [
        accuracy_against_time(methods, f"extraction-{pool}-{shots}-shot") for (pool, shots), methods in groups.items()
    ]


def _compared(name: str, pool: Pool, shots: int, count: int, slow: int, seed: int) -> tuple[list[Row], bool]:
    """Return a row for each selector on the same tasks, and whether both ways of greedy search agree."""
    tasks = sample_tasks(pool, count, "fixed", WAY, shots, QUERIES, seed)
    rows = [_row(name, pool, shots, "random", tasks, seed)]
    kept: dict[str, list[Task]] = {}
    with progress(f"{name}, {shots} shot", len(METHODS) + 2) as advance:
        harden(pool, tasks[:2], "swap")  # what only the first call costs
        for label, method, rounds in METHODS:
            chosen, wall, processor = _timed(partial(harden, pool, tasks, method, rounds=rounds, seed=seed), count)
            kept[label] = chosen
            rows.append(_row(name, pool, shots, label, chosen, seed, wall, processor))
            advance(1)
        same = True
        for rounds, label in ((1, "greedy, 1 round"), (3, "greedy, 3 rounds")):
            chosen, wall, processor = _timed(partial(_obvious, pool, tasks[:slow], rounds), slow)
            same = same and [t.support for t in chosen] == [t.support for t in kept[label][:slow]]
            rows.append(_row(name, pool, shots, f"{label}, the obvious way", chosen, seed, wall, processor))
            advance(1)
    spent = {row.method: row.processor or 0.0 for row in rows}
    obvious, fast = spent["greedy, 3 rounds, the obvious way"], spent["greedy, 3 rounds"]
    return [
        row if row.processor is None else replace(row, times=obvious / row.processor, times_fast=fast / row.processor)
        for row in rows
    ], same


def _obvious(pool: Pool, tasks: Sequence[Task], rounds: int) -> list[Task]:
    candidates = Candidates(pool, tasks, "euclidean")
    return [replace(t, support=greedy_slow(candidates, t, "euclidean", 1, rounds)) for t in tasks]


def _many(name: str, pool: Pool, count: int, seed: int) -> dict[str, Any]:
    """Time many tasks of a large pool, 5-way 5-shot; the method `swap` chooses a tenth of them."""
    tasks = sample_tasks(pool, count, "fixed", WAY, 5, QUERIES, seed)
    found: dict[str, Any] = {"pool": name, "images": len(pool), "dimensions": pool.dim, "tasks": count}
    found["accuracy_random"] = bootstrap_mean(accuracy(pool, tasks), seed)
    methods: tuple[tuple[Method, int], ...] = (("fastdiffsel", count), ("steps", count), ("swap", max(2, count // 10)))
    for method, some in methods:
        with progress(f"{method}, {len(pool)} images", some) as advance:
            chosen, wall, processor = _timed(
                partial(harden, pool, tasks[:some], method, seed=seed, advance=advance), some
            )
        found[f"{method}_tasks"] = some
        found[f"{method}_ms_a_task"], found[f"{method}_processor_ms_a_task"] = wall, processor
        found[f"accuracy_{method}"] = bootstrap_mean(accuracy(pool, chosen), seed)
    return found


def _timed(choose: Callable[[], list[Task]], count: int) -> tuple[list[Task], float, float]:
    """Return the tasks chosen, and the milliseconds for one of `count`, on the wall and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    chosen = choose()
    return chosen, 1000 * (time.perf_counter() - wall) / count, 1000 * (time.process_time() - processor) / count


def _row(
    name: str,
    pool: Pool,
    shots: int,
    method: str,
    tasks: Sequence[Task],
    seed: int,
    wall: float | None = None,
    processor: float | None = None,
) -> Row:
    right, loss = bootstrap_mean(accuracy(pool, tasks), seed), bootstrap_mean(query_loss(pool, tasks), seed)
    return Row(name, shots, method, len(tasks), right, loss, wall, processor)


def _stored(name: str) -> Pool:
    """Return the pixels of a zoo file of images and labels."""
    from safetensors.numpy import load_file

    held = load_file(resolve_asset(name))
    if not {"images", "labels"} <= held.keys():
        raise DataError(f"{name} holds {', '.join(sorted(held))}: images and labels are needed")
    return _pool(held["images"].reshape(len(held["images"]), -1) / 255, held["labels"])


def _pool(pixels: Any, labels: Any) -> Pool:
    labels = np.asarray(labels, dtype=np.int64)
    names = tuple(str(c) for c in range(int(labels.max()) + 1))
    return Pool(np.asarray(pixels, dtype=np.float32), labels, names, [str(i) for i in range(len(labels))])
