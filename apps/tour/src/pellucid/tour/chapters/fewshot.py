"""Which support sets make a few-shot classifier fail, on three pools of small pictures."""

from pathlib import Path
from typing import Any

from pellucid.core.errors import DataError
from pellucid.core.report import Figure, Section, Table
from pellucid.fewshot_hard.embed import embed
from pellucid.fewshot_hard.evaluation import Judge, evaluate
from pellucid.fewshot_hard.extraction import Extraction, extract, means, percent, results, sheets
from pellucid.fewshot_hard.figures import accuracy_bars
from pellucid.fewshot_hard.images import ImageSet, load_images

from ..chapter import Chapter, Setting

POOLS = ("digits", "zoo:mnist5k", "zoo:animals")
TASKS = (200, 1000)  # of each kind and pool: in the tour, and with --full
SHOWN = "zoo:mnist5k"  # the pool whose tasks are drawn as pictures


def run(setting: Setting) -> Chapter:
    """Choose hard and easy supports on raw pixels; ask another backbone and another classifier about the digits."""
    pools, missing = _pools()
    found: dict[str, Extraction] = {}
    figures: list[Figure] = []
    for name, images in pools.items():
        pool = embed(images, "pixels", setting.out / _file(name))
        found[name] = extract(pool, setting.of(TASKS), seed=setting.seed)
        if name == SHOWN or len(pools) == 1:
            held = images
            figures = sheets(pool, found[name], lambda row, held=held: next(held.read([row])))  # type: ignore[misc]
    bars = {name: means(each, setting.seed) for name, each in found.items()}
    table, drops = _others(pools["digits"], found["digits"], setting)
    first = found["digits"]
    finding = (
        "It matters which examples a few-shot classifier is shown: after hard ones, found in "
        f"{1000 * first.seconds['hard']:.1f} ms a task, it answers {percent(first.mean('hard'))} of the same questions "
        f"about digits rightly, after random ones {percent(first.mean('default'))}."
    )
    text = [
        finding,
        f"Each of {setting.of(TASKS)} tasks a pool shows a classifier 5 pictures of 5 classes and asks it about 75 "
        "others. The hard and the easy task ask the same, after other pictures: the hard ones are selected by one "
        "gradient step of FastDiffSel (thesis algorithm 1), the easy ones by one round of greedy search.",
        "The hard tasks were chosen on raw pixels. The table below says what they do to others: a logistic regression, "
        "and a convolutional network with random weights, neither of which had a part in the choice.",
        *missing,
    ]
    section = Section(
        "Few-shot: which examples make learning fail?", text, [accuracy_bars(bars, chance=0.2), *figures], [table]
    )
    held_results: dict[str, Any] = {name: results(each, setting.seed) for name, each in found.items()}
    return Chapter(finding, section, {"pools": held_results, "drops": drops})


def _pools() -> tuple[dict[str, ImageSet], list[str]]:
    """The pools that can be had here, and a sentence on each that cannot."""
    pools, missing = {}, []
    for name in POOLS:
        try:
            pools[name] = load_images(name)
        except DataError as error:
            missing.append(f"{name} is left out: {error}.")
    return pools, missing


def _others(images: ImageSet, found: Extraction, setting: Setting) -> tuple[Table, Any]:
    """How classifiers fare that did not choose the tasks."""
    judges = [
        Judge("pixels", None, "pixels"),
        Judge("conv4, random weights", None, "conv4:64/28", "random"),
    ]
    tasks = [task for kind in ("default", "hard", "easy") for task in found.tasks[kind]]
    judged = evaluate(tasks, judges, setting.out / "judges", images=images, seed=setting.seed)
    cells = {(m.judge, m.method, m.kind): str(m.estimate) for m in judged.means}
    rows = [
        [judge.name, method, *(cells[judge.name, method, kind] for kind in ("default", "hard", "easy"))]
        for judge in judges
        for method in ("prototype", "linear")
    ]
    table = Table(
        "classifiers", ["backbone", "classifier", "default", "hard", "easy"], rows,
        "Digits: accuracy of classifiers on the same tasks; 95 % intervals over tasks.",
    )  # fmt: skip
    return table, judged.drops


def _file(name: str) -> Path:
    return Path(name.replace(":", "-"))
