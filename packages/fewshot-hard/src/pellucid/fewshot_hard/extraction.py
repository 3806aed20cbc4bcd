"""Hard and easy tasks out of a pool: sampled, searched, saved and judged by mean prototypes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pellucid.core.progress import progress
from pellucid.core.report import Figure, Report, Section, Table
from pellucid.core.statistics import Estimate, bootstrap_difference, bootstrap_mean

from .figures import accuracy_bars
from .pools import Pool
from .prototypes import Distance, accuracy, predictions
from .samplers import Sampler, sample_tasks
from .selection import Method, ease, harden
from .sheets import Picture, contact_sheet
from .task_files import save_tasks
from .tasks import Kind, Task

KINDS: tuple[Kind, ...] = ("default", "hard", "easy")


@dataclass(frozen=True)
class Extraction:
    """Default tasks, and hard and easy ones with the same classes, shots and query sets.

    Attributes:
        tasks: by kind, in the same order.
        accuracy: by kind, (T,) of mean prototypes on the pool that the tasks were chosen on.
        seconds: by kind, to make one task.
    """

    tasks: dict[Kind, list[Task]]
    accuracy: dict[Kind, NDArray[np.float64]]
    seconds: dict[Kind, float]

    def mean(self, kind: Kind, seed: int = 0) -> Estimate:
        """Mean accuracy of a kind's tasks with its 95% interval over tasks."""
        return bootstrap_mean(self.accuracy[kind], seed)


def extract(
    pool: Pool,
    count: int = 200,
    *,
    sampler: Sampler = "fixed",
    way: int = 5,
    shot: int = 5,
    query: int = 15,
    method: Method = "fastdiffsel",
    distance: Distance = "euclidean",
    alpha: float = 200.0,
    rounds: int = 3,
    seed: int = 0,
    query_where: dict[str, bool] | None = None,
) -> Extraction:
    """Sample default tasks and choose hard and easy supports for their query sets (thesis 4.4.1, algorithm 1).

    Args:
        pool: images to draw from.
        count: tasks of each kind.
        sampler: see `samplers.sample_tasks`, also for `way`, `shot`, `query` and `query_where`.
        way: classes of a task.
        shot: support images a class.
        query: query images a class.
        method: of hard tasks, see `selection.harden`, also for `distance`, `alpha` and `rounds`; and `selection.ease`.
        distance: euclidean or cosine.
        alpha: learning rate.
        rounds: of greedy search.
        seed: decides every random choice.
        query_where: annotations that query images must have or lack.

    Raises:
        DataError: a class has too few images.
        OptionError: a name or a number that cannot work.
    """
    began = time.perf_counter()
    tasks: dict[Kind, list[Task]] = {
        "default": sample_tasks(pool, count, sampler, way, shot, query, seed, query_where=query_where)
    }
    seconds: dict[Kind, float] = {"default": (time.perf_counter() - began) / count}
    for kind in ("hard", "easy"):
        began = time.perf_counter()
        with progress(f"Choosing {kind} supports", count) as advance:
            tasks[kind] = (harden if kind == "hard" else ease)(
                pool, tasks["default"], method, distance=distance, alpha=alpha, rounds=rounds, seed=seed,
                advance=advance,
            )  # fmt: skip
        seconds[kind] = (time.perf_counter() - began) / count
    return Extraction(tasks, {kind: accuracy(pool, tasks[kind], distance) for kind in KINDS}, seconds)


def extract_report(
    pool: Pool, out: Path, provenance: dict[str, Any], *, picture: Picture | None = None, **options: Any
) -> Report:
    """Extract tasks, write them as `default.parquet`, `hard.parquet` and `easy.parquet` into `out`, and report.

    Args:
        pool: see `extract`, also for `options`.
        out: folder of the task files.
        provenance: where the pool comes from; kept in the files.
        picture: gives the picture of a row, for contact sheets; none are drawn without.
        options: of `extract`.
    """
    found = extract(pool, **options)
    for kind in KINDS:
        save_tasks(out / f"{kind}.parquet", found.tasks[kind], pool, provenance | options)
    seed = options.get("seed", 0)
    sentence = described(found, seed)
    chance = float(np.mean([1 / task.way for task in found.tasks["default"]]))
    figures = [accuracy_bars({provenance.get("pool", "pool"): means(found, seed)}, chance=chance)]
    if picture is not None:
        figures += sheets(pool, found, picture, options.get("distance", "euclidean"))
    section = Section("Hard and easy tasks", [sentence, _how(found, pool)], figures, [kinds_table(found, seed)])
    return Report(
        title="Hard few-shot tasks",
        command="fewshot extract",
        config=provenance | options,
        seed=seed,
        device="cpu",
        sections=[section],
        results=results(found, seed) | {"pool": {"digest": pool.digest, "images": len(pool), "dim": pool.dim}},
        summary=sentence,
    )


def means(found: Extraction, seed: int = 0) -> dict[str, Estimate]:
    """Mean accuracies by kind."""
    return {kind: found.mean(kind, seed) for kind in KINDS}


def described(found: Extraction, seed: int = 0) -> str:
    """What was found, in a sentence."""
    drop = bootstrap_difference(found.accuracy["default"], found.accuracy["hard"], seed, paired=True)
    hard, default, easy = (found.mean(kind, seed) for kind in ("hard", "default", "easy"))
    return (
        f"Over {len(found.tasks['hard'])} tasks, mean prototypes classify {percent(default)} of the queries with "
        f"random supports, {percent(hard)} with the hard ones and {percent(easy)} with the easy ones: hard supports "
        f"cost {100 * drop.value:.1f} points [{100 * drop.low:.1f}, {100 * drop.high:.1f}], at "
        f"{1000 * found.seconds['hard']:.3g} ms a task."
    )


def sheets(pool: Pool, found: Extraction, picture: Picture, distance: Distance = "euclidean") -> list[Figure]:
    """Contact sheets of the query set that lost most: its hard support, and its easy one."""
    worst = int(np.argmax(found.accuracy["easy"] - found.accuracy["hard"]))
    drawn = []
    for kind in ("hard", "easy"):
        task = found.tasks[kind][worst]
        drawn.append(contact_sheet(task, picture, pool.classes, predictions(pool, [task], distance)[0]))
    return drawn


def kinds_table(found: Extraction, seed: int = 0) -> Table:
    """Accuracy and time by kind."""
    rows = [[kind, len(found.tasks[kind]), str(found.mean(kind, seed)), 1000 * found.seconds[kind]] for kind in KINDS]
    return Table(
        "kinds", ["tasks", "number", "accuracy", "ms a task"], rows,
        "Accuracy of mean prototypes on the pool that the supports were chosen on; 95 % intervals over tasks.",
    )  # fmt: skip


def results(found: Extraction, seed: int = 0) -> dict[str, Any]:
    """What `result.json` holds: every task's way, shots and accuracy; means with intervals; seconds a task."""
    return {
        "tasks": [
            {"kind": kind, "way": task.way, "shots": list(task.shots), "accuracy": float(value)}
            for kind in KINDS
            for task, value in zip(found.tasks[kind], found.accuracy[kind], strict=True)
        ],
        "means": means(found, seed),
        "seconds": dict(found.seconds),
    }


def _how(found: Extraction, pool: Pool) -> str:
    ways = sorted({task.way for task in found.tasks["default"]})
    shots = sorted({shot for task in found.tasks["default"] for shot in task.shots})
    return (
        f"The pool holds {len(pool)} images of {len(pool.classes)} classes. Tasks have {_range(ways)} classes with "
        f"{_range(shots)} support images each; a hard and an easy task keep the classes, shots and query set of "
        "their default task."
    )


def _range(values: Sequence[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"


def percent(estimate: Estimate) -> str:
    """An accuracy with its interval, in percent."""
    return f"{100 * estimate.value:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
