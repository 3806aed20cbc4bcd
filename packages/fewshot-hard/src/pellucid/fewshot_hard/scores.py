"""Accuracies of few-shot classifiers: task by task, their means, and what hard tasks take from default ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pellucid.core.statistics import Estimate, bootstrap_difference, bootstrap_mean

from .tasks import Kind, Task

Classifier = Literal["prototype", "linear", "finetune"]
CLASSIFIERS: tuple[Classifier, ...] = get_args(Classifier)
Group = tuple[str, Classifier, Kind, str]


@dataclass(frozen=True)
class Score:
    """One classifier's accuracy on one task.

    Attributes:
        judge: name of the backbone.
        method: of classification.
        task: the task's place in the list that was given.
        kind: of the task.
        selector: what chose its support, `Task.method`.
        way: its classes.
        shots: support images of each class.
        accuracy: on its query set, 0 to 1.
    """

    judge: str
    method: Classifier
    task: int
    kind: Kind
    selector: str
    way: int
    shots: tuple[int, ...]
    accuracy: float


@dataclass(frozen=True)
class Mean:
    """Accuracy over all tasks of a kind that one selector chose; or by how much it is under the default tasks'.

    Attributes:
        judge: name of the backbone.
        method: of classification.
        kind: of the tasks.
        selector: what chose their supports.
        tasks: how many.
        estimate: mean with its 95% interval over tasks.
    """

    judge: str
    method: Classifier
    kind: Kind
    selector: str
    tasks: int
    estimate: Estimate


def means_of(scores: Sequence[Score], seed: int = 0) -> tuple[Mean, ...]:
    """Return the mean accuracy of each backbone, method, kind and selector, in the order of the scores."""
    groups: dict[Group, list[float]] = {}
    for score in scores:
        groups.setdefault((score.judge, score.method, score.kind, score.selector), []).append(score.accuracy)
    return tuple(Mean(*group, len(values), bootstrap_mean(values, seed)) for group, values in groups.items())


def drops_of(scores: Sequence[Score], tasks: Sequence[Task], seed: int = 0) -> tuple[Mean, ...]:
    """Return accuracy on default tasks less that on their hard and easy ones, in pairs; see `Evaluation.drops`."""
    usual: dict[Any, float] = {}
    for score in scores:
        if score.kind == "default":
            usual.setdefault((score.judge, score.method, _pairing(tasks[score.task])), score.accuracy)
    groups: dict[Group, list[tuple[float, float]]] = {}
    for score in scores:
        pair = (score.judge, score.method, _pairing(tasks[score.task]))
        if score.kind != "default" and pair in usual:
            group = groups.setdefault((score.judge, score.method, score.kind, score.selector), [])
            group.append((usual[pair], score.accuracy))
    return tuple(
        Mean(*group, len(pairs), bootstrap_difference([a for a, _ in pairs], [b for _, b in pairs], seed, paired=True))
        for group, pairs in groups.items()
    )


def _pairing(task: Task) -> Any:
    """What a hard task takes over from its default one."""
    return task.classes, task.shots, task.query
