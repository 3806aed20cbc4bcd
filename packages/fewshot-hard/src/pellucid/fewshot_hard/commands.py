"""What the commands do: each returns the report that it writes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pellucid.core.errors import OptionError
from pellucid.core.report import Report, Section, Table
from pellucid.core.statistics import Estimate

from .explain import compare, composition
from .extraction import extract_report, percent
from .figures import accuracy_bars, composition_bars, training_curve
from .pools import Pool, load_pool, save_pool
from .task_files import load_tasks

if TYPE_CHECKING:
    from .evaluation import Judge
    from .images import ImageSet


def extraction_report(
    pool: str | None, images: str | None, backbone: str, weights: str | None, out: Path, **options: Any
) -> Report:
    """Extract tasks from a pool, or from images embedded first; see `extraction.extract` for the options.

    Args:
        pool: a file of embeddings, or None.
        images: see `images.load_images`; embedded by the backbone where no pool is given, and shown as pictures.
        backbone: see `backbones.load_backbone`.
        weights: of the backbone.
        out: folder of the task files, the report, and the ledger of embeddings.
        options: of `extraction.extract`.

    Raises:
        OptionError: neither pool nor images are given.
        DataError: they do not belong together, or cannot be read.
    """
    if pool is None and images is None:
        raise OptionError("there is nothing to extract from: give --pool FILE or --images IMAGES")
    pictures = None if images is None else _load_images(images)
    if pool is None:
        from .embed import embed

        assert pictures is not None
        found = embed(pictures, backbone, out / "ledger", weights=weights)
        provenance: dict[str, Any] = {"pool": str(images), "backbone": backbone, "weights": weights}
    else:
        found = load_pool(Path(pool))
        provenance = {"pool": Path(pool).stem}
    if pictures is None:
        return extract_report(found, out, provenance, **options)
    _same_images(found, pictures)
    read = pictures.read
    return extract_report(found, out, provenance, picture=lambda row: next(read([row])), **options)


def explain_report(pool: str, hard: Path, easy: Path, seed: int = 0) -> Report:
    """Compare the annotations of support and query images, in hard tasks and in easy (or default) ones (fig. 4.5).

    Args:
        pool: a file of embeddings with annotations.
        hard: a task file.
        easy: another of the same pool.
        seed: of the intervals.

    Raises:
        DataError: a file cannot be read, is of another pool, or has no annotations.
    """
    held = load_pool(Path(pool))
    tasks = {"hard": load_tasks(hard, held).tasks, "easy": load_tasks(easy, held).tasks}
    second = tasks["easy"][0].kind
    parts = {"hard": tasks["hard"], str(second): tasks["easy"]}
    found = {kind: composition(held, part, seed) for kind, part in parts.items()}
    contrast = compare(found["hard"], found[second], seed)
    overall = contrast.overall
    word = "larger" if overall.low > 0 else "smaller" if overall.high < 0 else "not told apart"
    sentence = (
        f"The share of annotated images differs between support and query by {100 * overall.value:+.1f} points "
        f"[{100 * overall.low:+.1f}, {100 * overall.high:+.1f}] more in hard tasks than in {second} ones, on average "
        f"over {len(contrast.annotations)} annotations: {word}."
    )
    rows = [
        [name, found["hard"].size.value[i], found[second].size.value[i], str(contrast.difference[i])]
        for i, name in enumerate(contrast.annotations)
    ]
    table = Table(
        "annotations", ["annotation", "|gap|, hard", f"|gap|, {second}", "difference"], rows,
        "Mean absolute difference between the shares in support and in query; 95 % intervals over tasks.",
    )  # fmt: skip
    results = {"composition": found, "contrast": contrast}
    section = Section("Why tasks are hard", [sentence], [composition_bars(found)], [table])
    config = {"pool": pool, "hard": hard, "easy": easy}
    return _report("explain", "Why tasks are hard", config, seed, section, results, sentence)


def build_report(roots: Mapping[str, Path], out: Path, backbone: str, *, seed: int = 0, **options: Any) -> Report:
    """Build a benchmark and report its accuracies; see `benchmark.build`.

    Args:
        roots: data sets by name.
        out: where the benchmark goes.
        backbone: see `backbones.load_backbone`.
        seed: decides every random choice.
        options: of `benchmark.build`.
    """
    from .benchmark import build

    manifest = build(roots, out, backbone, seed=seed, **options)
    bars = {
        name: {kind: Estimate(**estimate) for kind, estimate in entry["accuracy"].items()}
        for name, entry in manifest["datasets"].items()
    }
    counts = manifest["tasks"]
    sentence = (
        f"The benchmark holds {counts['hard']} hard tasks of {len(bars)} data sets, with {counts['default']} default "
        f"and {counts['easy']} easy ones of the same query sets."
    )
    rows = [
        [
            name,
            entry["images"],
            entry["classes"],
            entry["files"]["hard"]["tasks"],
            *(str(e) for e in bars[name].values()),
        ]
        for name, entry in manifest["datasets"].items()
    ]
    table = Table(
        "datasets", ["data set", "images", "classes", "hard tasks", *bars[next(iter(bars))]], rows,
        "Accuracy of mean prototypes with the backbone that chose the tasks; 95 % intervals over tasks.",
    )  # fmt: skip
    section = Section("A benchmark of hard tasks", [sentence], [accuracy_bars(bars)], [table])
    config = {"data": {k: str(v) for k, v in roots.items()}, "backbone": backbone} | options
    return _report("build", "A benchmark of hard tasks", config, seed, section, manifest, sentence)


def embed_report(images: str, backbone: str, out: Path, *, weights: str | None = None, **options: Any) -> Report:
    """Embed images and write them as `pool.safetensors` into `out`.

    Args:
        images: see `images.load_images`.
        backbone: see `backbones.load_backbone`.
        out: folder of the pool and of the ledger.
        weights: of the backbone.
        options: of `embed.embed`, such as `workers`.
    """
    from .embed import embed

    held = _load_images(images)
    pool = embed(held, backbone, out / "ledger", weights=weights, **options)
    save_pool(pool, out / "pool.safetensors")
    sentence = f"{len(pool)} images of {len(pool.classes)} classes are embedded in {pool.dim} dimensions by {backbone}."
    if held.skipped:
        sentence += f" Files left out because they could not be read: {len(held.skipped)}."
    counts = np.bincount(pool.labels, minlength=len(pool.classes)).tolist()
    tables = [Table("classes", ["class", "images"], list(map(list, zip(pool.classes, counts, strict=True))), "Images.")]
    if held.skipped:
        tables.append(Table("skipped", ["left out"], [[each] for each in held.skipped], "Files that cannot be read."))
    section = Section("A pool of embeddings", [sentence, f"Its digest is {pool.digest}."], [], tables)
    results = {"images": len(pool), "dim": pool.dim, "digest": pool.digest, "skipped": list(held.skipped)}
    config = {"images": images, "backbone": backbone, "weights": weights} | options
    return _report("embed", "A pool of embeddings", config, 0, section, results, sentence)


def meta_train_report(
    images: str,
    backbone: str,
    out: Path,
    *,
    weights: str | None = None,
    episodes: int = 1000,
    way: int = 5,
    shot: int = 5,
    query: int = 10,
    lr: float = 0.001,
    held_out: Sequence[str] = (),
    seed: int = 0,
    device: str = "cpu",
) -> Report:
    """Meta-train a backbone into `out` and report its accuracy before, on the way and after.

    Args:
        images: see `images.load_images`.
        backbone: see `backbones.load_backbone`.
        out: folder of checkpoint and weights.
        weights: to start from.
        episodes: see `meta_training.Episodes`, also for `way`, `shot`, `query`, `lr` and `seed`.
        way: classes of an episode.
        shot: support images a class.
        query: query images a class.
        lr: learning rate.
        held_out: see `meta_training.meta_train`.
        seed: decides every random choice.
        device: for torch.
    """
    from .meta_training import Episodes, meta_train

    start = "random" if weights is None and backbone.startswith("conv4") else weights
    settings = Episodes(count=episodes, way=way, shot=shot, query=query, lr=lr, seed=seed)
    found = meta_train(_load_images(images), backbone, out, settings, weights=start, held_out=held_out, device=device)
    first, last = found.curve[0].accuracy, found.curve[-1].accuracy
    unseen = f"classes {', '.join(found.held_out)}" if found.held_out else "images"
    sentence = (
        f"After {episodes} episodes, {backbone} classifies {percent(last)} of the queries of tasks over {unseen} that "
        f"it was not trained on, against {percent(first)} before."
    )
    rows = [[point.episodes, point.loss, str(point.accuracy)] for point in found.curve]
    table = Table(
        "curve", ["episodes", "loss", "accuracy"], rows,
        "Mean training loss since the row above, and accuracy of mean prototypes on held-out tasks.",
    )  # fmt: skip
    section = Section(
        "Meta-training", [sentence], [training_curve([(p.episodes, p.accuracy) for p in found.curve])], [table]
    )
    config = {"images": images, "backbone": backbone, "weights": weights, "held_out": list(held_out)} | vars(settings)
    results = {"curve": found.curve, "train_classes": found.train_classes, "held_out": found.held_out}
    return _report("meta-train", "Meta-training", config, seed, section, results, sentence)


def evaluate_report(
    tasks: Sequence[str],
    pools: Sequence[str],
    images: str | None,
    backbones: Sequence[str],
    methods: Sequence[Any],
    out: Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    **options: Any,
) -> Report:
    """Judge task files by pools, or by backbones on images; see `evaluation.evaluate`.

    Args:
        tasks: task files.
        pools: pool files of the same images.
        images: see `images.load_images`; needed by backbones and for fine-tuning.
        backbones: used with images: a name, or NAME=WEIGHTS.
        methods: prototype, linear, finetune.
        out: folder of the ledger.
        seed: of the intervals.
        device: for torch.
        options: of `evaluation.evaluate`, such as `workers`.

    Raises:
        OptionError: there is nothing to judge, or nothing to judge it by.
    """
    from .evaluation import Judge, evaluate

    if not tasks:
        raise OptionError("there are no tasks to judge: give files with --tasks")
    if not pools and images is None:
        raise OptionError("there is nothing to judge tasks by: give --pool FILES, or --images with --backbones")
    held = None if images is None else _load_images(images)
    judges = [Judge(Path(file).stem, load_pool(Path(file))) for file in pools]
    if held is not None:
        judges += [_judge(each) for each in backbones]
    pool = judges[0].pool or _bare(held)
    given = [task for file in tasks for task in load_tasks(Path(file), pool).tasks]
    found = evaluate(
        given,
        judges,
        out / "ledger",
        methods=methods,
        images=held,
        seed=seed,
        device=device,
        **options,
    )
    single = len({(m.kind, m.selector) for m in found.means}) == len({m.kind for m in found.means})
    bars: dict[str, dict[str, Estimate]] = {}
    for mean in found.means:
        label = f"{mean.judge}, {mean.method}" + ("" if single or mean.kind == "default" else f", {mean.selector}")
        bars.setdefault(label, {})[mean.kind] = mean.estimate
    drops = [drop for drop in found.drops if drop.kind == "hard"]
    sentence = "; ".join(
        f"{d.judge} ({d.method}) loses {100 * d.estimate.value:.1f} points "
        f"[{100 * d.estimate.low:.1f}, {100 * d.estimate.high:.1f}] on {d.selector}'s hard tasks"
        for d in drops
    ) + "." if drops else f"{len(given)} tasks are judged."  # fmt: skip
    tables = [
        Table(name, ["backbone", "classifier", "tasks", "chosen by", "number", column],
              [[m.judge, m.method, m.kind, m.selector, m.tasks, str(m.estimate)] for m in means], caption)
        for name, column, means, caption in (
            ("means", "accuracy", found.means, "Mean accuracies with 95 % intervals over tasks."),
            ("drops", "points lost", found.drops, "Accuracy on default tasks minus that on the same query sets' own."),
        )
    ]  # fmt: skip
    section = Section("How classifiers fare", [sentence], [accuracy_bars(bars)], tables)
    results = {
        "tasks": [{"judge": s.judge, "method": s.method, "kind": s.kind, "way": s.way, "shots": list(s.shots),
                   "accuracy": s.accuracy} for s in found.scores],
        "means": found.means, "drops": found.drops,
    }  # fmt: skip
    config = {"tasks": list(tasks), "pools": list(pools), "images": images, "backbones": list(backbones),
              "methods": list(methods)}  # fmt: skip
    return _report("evaluate", "Few-shot classifiers on hard tasks", config, seed, section, results, sentence)


def _bare(images: "ImageSet | None") -> Pool:
    """The images as a pool without embeddings: enough to find a task's rows."""
    assert images is not None
    nothing = np.zeros((len(images), 1), dtype=np.float32)
    return Pool(nothing, images.labels, images.classes, images.ids, contents=images.contents)


def _judge(text: str) -> "Judge":
    """The backbone NAME, or NAME=WEIGHTS, called by its weights' folder and name."""
    from .evaluation import Judge

    name, _, weights = text.partition("=")
    path = Path(weights)
    label = f"{name.partition(':')[0]} ({path.parent.name}/{path.stem})" if weights.endswith(".safetensors") else text
    return Judge(label, None, name, weights or None)


def _load_images(source: str) -> "ImageSet":
    from .images import load_images

    return load_images(source)


def _same_images(pool: Pool, images: "ImageSet") -> None:
    if list(pool.ids) != list(images.ids):
        raise OptionError(
            f"the pool's {len(pool)} images are not the {len(images.ids)} given to be shown: give the same, or none"
        )


def _report(
    command: str, title: str, config: dict[str, Any], seed: int, section: Section, results: Any, sentence: str,
    notes: Sequence[str] = (),
) -> Report:  # fmt: skip
    return Report(
        title=title, command=f"fewshot {command}", config=config, seed=seed, device="cpu", sections=[section],
        results=results, summary=sentence, notes=notes,
    )  # fmt: skip
