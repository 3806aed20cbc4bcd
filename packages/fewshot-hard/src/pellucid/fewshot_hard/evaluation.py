"""How few-shot classifiers fare on tasks, over a list of backbones: default tasks beside hard ones (thesis 4.5)."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import DataError, ModelError, OptionError, SweepError
from pellucid.core.sweeps import Context, Summary, Sweep, session

from .narrowing import placed, used_rows
from .pools import Pool
from .prototypes import Distance, accuracy, check_distance
from .scores import CLASSIFIERS, Classifier, Mean, Score, drops_of, means_of
from .tasks import Rows, Task, flat

if TYPE_CHECKING:
    from .fine_tuning import FineTuning
    from .images import ImageSet

_BATCH = 32
"""Tasks that a worker takes at once where nothing is trained but a head."""


@dataclass(frozen=True, eq=False)
class Judge:
    """A backbone whose classifiers are tried.

    Attributes:
        name: what the results call it.
        pool: its embeddings; where None, the images are embedded.
        backbone: as in `load_backbone`; needed without a pool, and for fine-tuning.
        weights: likewise.
    """

    name: str
    pool: Pool | None = None
    backbone: str | None = None
    weights: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        scores: one a backbone, method and task, in the order of the judges, methods and tasks given.
        means: accuracies.
        drops: accuracy on default tasks minus that on the hard (or easy) ones with the same classes, shots and query
            set, in pairs; nothing for tasks whose default is not among those given.
        summaries: of the sweeps: of heads on embeddings, and of fine-tuning.
    """

    scores: tuple[Score, ...]
    means: tuple[Mean, ...]
    drops: tuple[Mean, ...]
    summaries: tuple[Summary, ...]


@dataclass(frozen=True)
class AccuracyRow:
    """Accuracy on a task's query set, 0 to 1."""

    accuracy: float


@dataclass(frozen=True)
class Trial:
    """A cell: one classifier on one task. `content` is a hash of all that it sees of the pool, or of the images."""

    judge: str
    method: Classifier
    task: Task
    content: str


@dataclass(frozen=True)
class _Heads:
    """What heads on embeddings need; the trials' content stands for the pools in their keys."""

    distance: Distance
    rows: NDArray[np.int64] = field(compare=False)
    pools: Mapping[str, Pool] = field(compare=False)


@dataclass(frozen=True)
class Spec:
    """What to load as a backbone, and the revision that it must have."""

    backbone: str
    weights: str | None
    revision: str


@dataclass(frozen=True)
class _Tuning:
    """What fine-tuning needs; the trials' content stands for images and weights in their keys."""

    settings: "FineTuning"
    rows: NDArray[np.int64] = field(compare=False)
    images: "ImageSet" = field(compare=False)
    specs: Mapping[str, Spec] = field(compare=False)
    device: str = field(compare=False)


def evaluate(
    tasks: Sequence[Task],
    judges: Sequence[Judge],
    ledger: str | Path,
    *,
    methods: Sequence[Classifier] = ("prototype", "linear"),
    images: "ImageSet | None" = None,
    distance: Distance = "euclidean",
    tuning: "FineTuning | None" = None,
    seed: int = 0,
    workers: int = 0,
    address: str | None = None,
    retry_failed: bool = False,
    device: str = "cpu",
) -> Evaluation:
    """Try classifiers on tasks, and compare default tasks with hard and easy ones (thesis 4.5.2, 4.5.3).

    Every backbone, method and task is a cell of a sweep: what the ledger holds is not computed again.

    Args:
        tasks: default, hard and easy ones, over rows of the images; in any order.
        judges: backbones; their pools hold the same images in the same order.
        ledger: a folder; below it lie the sweeps' own.
        methods: `prototype` (nearest mean), `linear` (see `classifiers.linear_accuracy`), `finetune` (see
            `fine_tuning.fine_tuned_accuracy`).
        images: what the tasks' rows are images of: needed for fine-tuning, and by judges without a pool.
        distance: for `prototype`: euclidean or cosine.
        tuning: settings of `finetune`; its defaults with `distance` where None.
        seed: of the intervals.
        workers: Ray actors; 0 computes in this process.
        address: a running Ray's.
        retry_failed: compute the trials that failed before, and only these.
        device: for torch.

    Raises:
        OptionError: a method, or a judge that cannot be used as asked.
        DataError: pools or images do not fit each other, or the tasks.
        SweepError: a classifier failed on some task; the first one's error is told, the others are in the ledger.
    """
    check_distance(distance)
    _check(tasks, judges, methods, images)
    run = {"workers": workers, "address": address, "retry_failed": retry_failed}
    heads: list[Classifier] = [method for method in methods if method != "finetune"]
    found, summaries = dict[Trial, float](), list[Summary]()
    trials: dict[tuple[str, Classifier], list[Trial]] = {}
    with session():
        if heads:
            pools = {}
            for judge in judges:
                pool = judge.pool
                if pool is None:
                    from .embed import embed

                    pool = embed(
                        cast("ImageSet", images), str(judge.backbone), Path(ledger) / "embeddings",
                        weights=judge.weights, workers=workers, address=address, device=device,
                    )  # fmt: skip
                pools[judge.name] = pool
            sweep = _heads_sweep(tasks, pools, heads, distance, trials)
            summaries.append(_run(sweep, Path(ledger) / "heads", run, found))
        if "finetune" in methods:
            from .fine_tuning import FineTuning

            settings = tuning or FineTuning(distance=distance)
            sweep = _tuning_sweep(tasks, judges, cast("ImageSet", images), settings, device, workers, trials)
            summaries.append(_run(sweep, Path(ledger) / "finetune", run, found))
    scores = tuple(
        Score(judge.name, method, place, task.kind, task.method, task.way, task.shots, found[trial])
        for judge in judges
        for method in methods
        for place, (task, trial) in enumerate(zip(tasks, trials[judge.name, method], strict=True))
    )
    return Evaluation(scores, means_of(scores, seed), drops_of(scores, tasks, seed), tuple(summaries))


def _heads_sweep(
    tasks: Sequence[Task],
    pools: Mapping[str, Pool],
    methods: Sequence[Classifier],
    distance: Distance,
    trials: dict[tuple[str, Classifier], list[Trial]],
) -> Sweep[Trial, AccuracyRow]:
    """Return the sweep over heads on embeddings, and add its trials to `trials`."""
    rows, narrowed, cells = used_rows(tasks), {}, list[Trial]()
    for name, pool in pools.items():
        contents = [_content(pool.embeddings, task) for task in tasks]
        for method in methods:
            trials[name, method] = _trials(name, method, tasks, contents)
            cells += trials[name, method]
        narrowed[name] = _narrowed(pool, rows)
    shared = _Heads(distance, rows, narrowed)
    return Sweep(_judge, _once(cells), version="1", row=AccuracyRow, shared=shared, batch=_BATCH)


def _tuning_sweep(
    tasks: Sequence[Task],
    judges: Sequence[Judge],
    images: "ImageSet",
    settings: "FineTuning",
    device: str,
    workers: int,
    trials: dict[tuple[str, Classifier], list[Trial]],
) -> Sweep[Trial, AccuracyRow]:
    """Return the sweep over fine-tuned backbones, and add its trials to `trials`."""
    rows, tuned, cells = used_rows(tasks), {}, list[Trial]()
    for judge in judges:
        weights = judge.weights if judge.weights in (None, "random") else str(Path(judge.weights).absolute())
        spec = Spec(str(judge.backbone), weights, "")
        spec = replace(spec, revision=_load(spec, device).revision)
        contents = [_content(images.contents, task, spec.revision) for task in tasks]
        trials[judge.name, "finetune"] = _trials(judge.name, "finetune", tasks, contents)
        cells += trials[judge.name, "finetune"]
        tuned[judge.name] = spec
    shared = _Tuning(settings, rows, images.subset(rows), tuned, device)
    gpus = 1 if workers and device.startswith("cuda") else 0
    return Sweep(_tune, _once(cells), version="1", row=AccuracyRow, shared=shared, setup=_Backbones, batch=1, gpus=gpus)


def _judge(cells: Sequence[Trial], context: Context) -> list[AccuracyRow]:
    shared: _Heads = context.shared
    found: dict[Trial, float] = {}
    groups: dict[tuple[str, Classifier], list[Trial]] = {}
    for cell in cells:
        groups.setdefault((cell.judge, cell.method), []).append(cell)
    for (judge, method), group in groups.items():
        pool, tasks = shared.pools[judge], placed([cell.task for cell in group], shared.rows)
        if method == "prototype":
            values = accuracy(pool, tasks, shared.distance)
        else:
            from .classifiers import linear_accuracy

            values = linear_accuracy(pool, tasks)
        found |= dict(zip(group, values.tolist(), strict=True))
    return [AccuracyRow(found[cell]) for cell in cells]


def _tune(cells: Sequence[Trial], context: Context) -> list[AccuracyRow]:
    from .fine_tuning import fine_tuned_accuracy

    shared: _Tuning = context.shared
    rows = []
    for cell in cells:
        backbone = context.state.get(cell.judge)
        (task,) = placed([cell.task], shared.rows)
        support, labels = _prepared(shared, backbone, task.support)
        query, truth = _prepared(shared, backbone, task.query)
        rows.append(AccuracyRow(fine_tuned_accuracy(backbone.module, support, labels, query, truth, shared.settings)))
    return rows


def _prepared(shared: _Tuning, backbone: Any, part: tuple[Rows, ...]) -> tuple[Any, Any]:
    """Return a support or a query set's images, prepared, and the task's labels, both as tensors."""
    import torch

    places, labels = flat(part)
    images = backbone.prepare(list(shared.images.read(places)))
    return images.to(shared.device), torch.tensor(labels, device=shared.device)


class _Backbones:
    """The setup of fine-tuning: the judges' backbones, one at a time in memory, since large ones may not fit."""

    def __init__(self, shared: _Tuning) -> None:
        self.specs, self.device, self.last, self.held = shared.specs, shared.device, "", cast(Any, None)

    def get(self, name: str) -> Any:
        """Return a judge's backbone; it is held until another one is asked for."""
        if name != self.last:
            self.last, self.held = "", None
            self.held = _load(self.specs[name], self.device)
            if self.held.revision != self.specs[name].revision:
                backbone = self.specs[name].backbone
                raise ModelError(f"{backbone} has other weights on a worker than here: give both the same file")
            self.last = name
        return self.held


def _load(spec: Spec, device: str) -> Any:
    from .backbones import load_backbone

    return load_backbone(spec.backbone, weights=spec.weights, device=device)


def _run(sweep: Sweep[Trial, AccuracyRow], ledger: Path, run: Mapping[str, Any], found: dict[Trial, float]) -> Summary:
    """Run a sweep and add what it found to `found`."""
    summary = sweep.run(ledger, **run)
    pairs = sweep.pairs(ledger)
    missing = len(sweep.cells) - len(pairs)
    if missing:
        failures = sweep.failures(ledger)
        text = failures[0][1].strip().splitlines()[-1] if failures else "run again without retry_failed"
        raise SweepError(f"{missing} of {len(sweep.cells)} trials are missing ({text}): mend it, use retry_failed")
    found |= {trial: row.accuracy for trial, row in pairs}
    return summary


def _once(cells: Sequence[Trial]) -> list[Trial]:
    return list(dict.fromkeys(cells))


def _trials(judge: str, method: Classifier, tasks: Sequence[Task], contents: Sequence[str]) -> list[Trial]:
    return [Trial(judge, method, *pair) for pair in zip(tasks, contents, strict=True)]


def _content(values: NDArray[Any], task: Task, revision: str = "") -> str:
    """Return a hash of a task's rows of an array, in the task's order."""
    rows = flat(task.support)[0] + flat(task.query)[0]
    hasher = hashlib.blake2b(revision.encode(), digest_size=16)
    hasher.update(np.ascontiguousarray(values[rows]).tobytes())
    return hasher.hexdigest()


def _narrowed(pool: Pool, rows: NDArray[np.int64]) -> Pool:
    """Return the pool of some rows, in memory."""
    ids = tuple(pool.ids[row] for row in rows)
    return Pool(np.asarray(pool.embeddings[rows]), pool.labels[rows], pool.classes, ids)


def _check(
    tasks: Sequence[Task], judges: Sequence[Judge], methods: Sequence[Classifier], images: "ImageSet | None"
) -> None:
    """Raise what can be known before anything is loaded or embedded."""
    names = [judge.name for judge in judges]
    if not tasks or not judges or not methods:
        raise OptionError(f"{len(tasks)} tasks, {len(judges)} judges, {len(methods)} methods: give one of each or more")
    if len(set(names)) < len(names):
        raise OptionError(f"two judges have one name among {', '.join(names)}: give each its own")
    for method in methods:
        if method not in CLASSIFIERS or methods.count(method) > 1:
            raise OptionError(f"methods are {', '.join(methods)}: choose from {', '.join(CLASSIFIERS)}, each once")
    for judge in judges:
        if "finetune" in methods and (images is None or judge.backbone is None):
            raise OptionError(f"finetune of {judge.name!r} needs the images and a backbone: give both, or leave it out")
        if judge.pool is None and (images is None or judge.backbone is None):
            raise OptionError(f"judge {judge.name!r} has no pool: give one, or a backbone together with images")
    last = max(row for task in tasks for part in (task.support, task.query) for rows in part for row in rows)
    pools: list[Pool | ImageSet] = [judge.pool for judge in judges if judge.pool is not None]
    held = [*pools, images] if images is not None else pools
    if last >= len(held[0]):
        raise DataError(f"a task uses row {last} of {len(held[0])} images: give the images that it was drawn from")
    for other in held[1:]:
        if len(other) != len(held[0]) or any(a != b for a, b in zip(other.ids, held[0].ids, strict=True)):
            raise DataError("pools or images of the judges have other ids or another order: embed the same images")
