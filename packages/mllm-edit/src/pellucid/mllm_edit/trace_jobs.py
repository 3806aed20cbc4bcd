"""Tracing as a sweep: one cell a question, so that adding questions recomputes nothing."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pellucid.core.errors import DataError, OptionError
from pellucid.core.loading import ModelSpec, load
from pellucid.core.multimodal import load_multimodal
from pellucid.core.pictures import PictureFile, picture_file
from pellucid.core.statistics import Estimates, bootstrap_means
from pellucid.core.sweeps import Context, Sweep
from pellucid.core.sweeps.keys import cell_seed, digest

from .answering import generate_answers
from .corruption import TraceProbe, noise_probe, replacement_probe, same_length_phrase
from .inputs import Answerer, Row
from .prompts import DEFAULT_STYLE, Style
from .questions import VisualQuestion
from .text_backbone import WINDOW, in_words
from .tracing import Group, Kind, default_window, multimodal_causal_trace, token_groups

Corruption = Literal["phrase", "noise"]
Asked = Literal["picture", "words", "alone"]

PHRASES = (
    "Paris", "the Taj Mahal", "Marie Curie", "the Eiffel Tower", "New York City", "Barack Obama", "Mount Everest",
    "the Statue of Liberty", "Coca Cola", "the Great Wall of China",
)  # fmt: skip
"""Put in the place of constraints for which nothing better is known; of several lengths."""

RANDOM = "random tokens"


@dataclass(frozen=True)
class TraceJob:
    """What all cells of a tracing sweep share.

    Attributes:
        model: which model.
        corruption: "phrase" puts the constraints in other words (6.2.2); "noise" is the standard trace (11.5.2).
        asked: "picture", or the entity in "words" of the whole model, or in words of a language model "alone" (6.3.1).
        window: layers restored together; 0 takes 3 for one constraint and 6 for several, in words 5, with noise 10,
            or as many as the model has.
        noise: see `noise_probe`; so is draws.
        phrases: words to put in the place of a constraint; see `phrases_of`.
        style: how prompts are written.
        rows: of one batch; it does not change results beyond rounding.
    """

    model: ModelSpec
    corruption: Corruption = "phrase"
    asked: Asked = "picture"
    window: int = 0
    noise: float = 3.0
    draws: int = 5
    phrases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    style: Style = DEFAULT_STYLE
    rows: int = field(default=32, compare=False)

    def __post_init__(self) -> None:
        if self.corruption not in ("phrase", "noise") or self.asked not in ("picture", "words", "alone"):
            raise OptionError(
                f"corruption {self.corruption!r}, asked {self.asked!r}: give phrase or noise, and picture, words or "
                "alone"
            )


@dataclass(frozen=True)
class TraceCell:
    """A question without the path of its picture, and that picture; an empty answer follows the model's own."""

    question: VisualQuestion
    picture: PictureFile
    answer: str = ""


@dataclass(frozen=True)
class TraceRow:
    """One trace; tables `(groups, windows)` are laid out row by row.

    Attributes:
        answer: the answer that was followed.
        phrases: what stood in the place of the constraints, or nothing with noise.
        clean: P_clean(O); `corrupted`: P_corr(O).
        groups: names of the token groups.
        first: first layer of each window; `stop`: the layer after its last one.
        mlp: P_restored(O) of MLP outputs; `attention`: of attention outputs.
    """

    answer: str
    phrases: list[str]
    clean: float
    corrupted: float
    groups: list[str]
    first: list[int]
    stop: list[int]
    mlp: list[float]
    attention: list[float]

    def effects(self, kind: Kind) -> dict[str, np.ndarray]:
        """Indirect estimation effects by token group, `(windows,)` each."""
        table = np.asarray(self.mlp if kind == "mlp" else self.attention).reshape(len(self.groups), -1)
        return dict(zip(self.groups, table - self.corrupted, strict=True))


def phrases_of(questions: Sequence[VisualQuestion]) -> dict[str, tuple[str, ...]]:
    """Words for each constraint, from the questions themselves, so that the corrupted ones still make sense.

    For a visual constraint these are the entities that it stands for elsewhere ("this person": all persons), for a
    textual one the other textual constraints.
    """
    entities: dict[str, set[str]] = defaultdict(set)
    texts = {text for question in questions for text in question.textual}
    for question in questions:
        if question.visual and question.entity:
            entities[question.visual].add(question.entity)
    found = {constraint: tuple(sorted(names)) for constraint, names in entities.items()}
    return found | {text: tuple(sorted(texts - {text})) for text in texts if len(texts) > 1}


def trace_sweep(
    job: TraceJob, questions: Sequence[VisualQuestion], answers: Sequence[str] | None = None, **options: Any
) -> Sweep[Any, Any]:
    """A sweep that traces every question (rows: TraceRow).

    Args:
        job: what to do.
        questions: those with a visual constraint.
        answers: whose probability is followed, one each; None follows the model's own answers.
        options: of `Sweep`.

    Raises:
        DataError: a question has no visual constraint or its picture cannot be read.
    """
    for question in questions:
        if not question.visual:
            raise DataError(f"the question {question.question!r} has no visual constraint to trace: give one")
    said = [""] * len(questions) if answers is None else list(answers)
    cells = [
        TraceCell(replace(question, image=""), _picture(job, question), answer)
        for question, answer in zip(questions, said, strict=True)
    ]
    return Sweep(_trace, cells, version="2", row=TraceRow, shared=job, setup=_load, batch=1, **options)


def mean_effects(rows: Sequence[TraceRow], kind: Kind, seed: int = 0) -> dict[str, Estimates]:
    """Mean effects over questions with intervals, by token group, `(layers,)` each; in the order of the prompt.

    A group counts in the questions that have it.

    Raises:
        DataError: there are no rows.
    """
    if not rows:
        raise DataError("there is no traced question: nothing to average")
    tables = [row.effects(kind) for row in rows]
    order = max((row.groups for row in rows), key=len)
    names = [*order, *sorted({name for row in rows for name in row.groups} - set(order))]
    return {name: bootstrap_means([table[name] for table in tables if name in table], seed) for name in names}


def _picture(job: TraceJob, question: VisualQuestion) -> PictureFile:
    """In words the picture is not looked at, but tells apart what is asked of two pictures of one entity."""
    if job.asked == "picture" or Path(question.image).is_file():
        return picture_file(question.image)
    return PictureFile()


def _load(job: TraceJob) -> Answerer:
    return load(job.model) if job.asked == "alone" else load_multimodal(job.model)


def _trace(cells: Sequence[TraceCell], context: Context) -> list[TraceRow]:
    return [_traced(context.shared, context.state, cell) for cell in cells]


def _traced(job: TraceJob, loaded: Answerer, cell: TraceCell) -> TraceRow:
    # Drawn from the cell, not from its key: traces with other windows get the same phrases and the same noise.
    seed = cell_seed(digest(cell))
    seen = replace(cell.question, image=cell.picture.path)
    question = seen if job.asked == "picture" else in_words(cell.question)
    answer = cell.answer or generate_answers(loaded, [question], style=job.style)[0].text
    if not answer:
        raise DataError(f"the model answers nothing to {question.question!r}: give an answer to follow")
    if job.corruption == "phrase":
        chosen = _chosen(job, loaded, cell.question, question, seed)
        probe = replacement_probe(loaded, question, answer, chosen, style=job.style)
    else:
        chosen = {}
        probe = noise_probe(
            loaded, question, answer, noise=job.noise, draws=job.draws, seed=seed, textual=True, style=job.style
        )
    groups = [*token_groups(probe.row), *random_group(probe.row, seed)]
    found = multimodal_causal_trace(probe, window=_window(job, question, probe), groups=groups, rows=job.rows)
    return TraceRow(
        answer=answer,
        phrases=list(chosen.values()),
        clean=found.clean,
        corrupted=found.corrupted,
        groups=list(found.groups),
        first=[first for first, _ in found.windows],
        stop=[stop for _, stop in found.windows],
        mlp=found.restored["mlp"].flatten().tolist(),
        attention=found.restored["attention"].flatten().tolist(),
    )


def _window(job: TraceJob, question: VisualQuestion, probe: TraceProbe) -> int:
    if job.window:
        return job.window
    usual = default_window(question) if job.asked == "picture" else WINDOW
    return min(10 if job.corruption == "noise" else usual, probe.anatomy.layers)


def _chosen(
    job: TraceJob, loaded: Answerer, original: VisualQuestion, asked: VisualQuestion, seed: int
) -> dict[str, str]:
    """Other words for every constraint: of as many tokens where there are such, the first ones otherwise."""
    chosen: dict[str, str] = {}
    for known, constraint in zip((original.visual, *original.textual), (asked.visual, *asked.textual), strict=True):
        offered, usual = list(job.phrases.get(known, ())), list(PHRASES)
        random.Random(seed).shuffle(offered)
        random.Random(seed).shuffle(usual)
        taken = (constraint, original.entity, *chosen.values())
        candidates = [phrase for phrase in (*offered, *usual) if phrase not in taken]
        found = same_length_phrase(loaded, asked, candidates, constraint=constraint, style=job.style)
        chosen[constraint] = candidates[0] if found is None else found
    return chosen


def random_group(row: Row, seed: int) -> list[Group]:
    """As many tokens after the constraint as it has, drawn at random: what restoring any tokens there would do."""
    constrained = {place for span in (row.visual, *row.textual) for place in span}
    rest = [place for place in range(row.visual[-1] + 1, row.last) if place not in {*constrained, *row.image}]
    if not rest:
        return []
    drawn = random.Random(seed).sample(rest, min(len(rest), len(row.visual)))
    return [Group(RANDOM, tuple(sorted(drawn)))]
